// Other Python threads run inside a scope; at the interpreter's end a daemon thread stays in it.
#pragma once

#include <Python.h>
#include <unistd.h>

namespace rsquant {

// As nanobind's gil_scoped_release, but for the interpreter's end. A daemon thread that comes back
// then is ended by Python before 3.14 with pthread_exit, which unwinds its stack: through functions
// that are noexcept, so that the whole process aborts. Here it waits until the process is gone, as
// Python does itself from 3.14 on.
class Released {
 public:
  Released() : state_(PyEval_SaveThread()) {}
  ~Released() {
    try {
      PyEval_RestoreThread(state_);
    } catch (...) {  // the unwinding of pthread_exit, which may not be swallowed
      for (;;) pause();
    }
  }
  Released(const Released&) = delete;
  Released& operator=(const Released&) = delete;

 private:
  PyThreadState* state_;
};

}  // namespace rsquant
