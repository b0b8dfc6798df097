"""What one engine makes of ONNX files; runs where only numpy and that engine are installed.

    python matrix_run.py ENGINE JOBS OUT

JOBS is a JSON list of {file, types, input, expected, optimised}: a file, its types below 8 bits,
its input and the logits that it should give as .npy, and where to write what onnxruntime makes of
it. Each line of OUT is the JSON of one job: {column: outcome}, as `attempt` says.
"""

import json
import re
import sys
from pathlib import Path

import numpy as np

# What an engine says of an operator or a type that it lacks, and that in short; {types} are ours.
REASONS = {
    r"Unsupported model IR version: (\d+), max supported IR version: (\d+)": r"IR \1, reads \2",
    r"find an implementation for (\w+)\(.*weight/indices'": r"no \1 of {types}",
    r"find an implementation for (\w+)": r"no operator \1",
    r"No conversion rule found for operations: ([\w.]+)": r"no operator \1",
    r"Loading input model Unsupported type": r"no type {types}",
    r"No registered implementation for operator '(\w+)'": r"no operator \1",
}


def onnxruntime_default(job):
    """Default options; a second session writes what the first one runs to a file."""
    import onnxruntime

    session = onnxruntime.InferenceSession(job["file"], providers=["CPUExecutionProvider"])
    logits = session.run(["logits"], {session.get_inputs()[0].name: np.load(job["input"])})[0]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # that the file suits this machine alone is meant
    options.optimized_model_filepath = job["optimised"]
    onnxruntime.InferenceSession(job["file"], options, providers=["CPUExecutionProvider"])
    return logits


def openvino_default(job, **config):
    """Default options; on processors with bfloat16 that is what it computes in."""
    import openvino

    core = openvino.Core()
    compiled = core.compile_model(core.read_model(job["file"]), "CPU", config)
    return compiled(np.load(job["input"]))[compiled.output(0)]


def openvino_float32(job):
    return openvino_default(job, INFERENCE_PRECISION_HINT="f32")


def onnx_checker(job):
    import onnx

    onnx.checker.check_model(job["file"], full_check=True)


def onnx_shapes(job):
    """Strict inference, which must find the type of every value."""
    import onnx

    model = onnx.load(job["file"])
    found = onnx.shape_inference.infer_shapes(model, True, strict_mode=True, data_prop=True).graph
    known = {value.name for value in (*found.value_info, *found.output)}
    missing = [name for node in found.node for name in node.output if name and name not in known]
    if missing:
        raise ValueError(f"nothing known of {missing[0]}")


def onnx_reference(job):
    import onnx.reference

    evaluator = onnx.reference.ReferenceEvaluator(onnx.load(job["file"]))
    return evaluator.run(["logits"], {evaluator.input_names[0]: np.load(job["input"])})[0]


COLUMNS = {
    "onnxruntime": {"": onnxruntime_default},
    "openvino": {"": openvino_default, "float32": openvino_float32},
    "onnx": {"checker": onnx_checker, "shapes": onnx_shapes, "reference": onnx_reference},
}


def attempt(function, job):
    """{failure, error}: a few words and the engine's own, "" if it worked; and its figures."""
    try:
        logits = function(job)
    except Exception as error:  # engines raise whatever they like
        text = re.sub(r"\s+", " ", f"{type(error).__name__}: {error}").strip()
        return {"failure": in_short(text, job["types"]), "error": text}
    outcome = {"failure": "", "error": ""}
    return outcome if logits is None else outcome | compare(np.load(job["expected"]), logits)


def in_short(text, types):
    for pattern, short in REASONS.items():
        match = re.search(pattern, text)
        if match:
            return match.expand(short).format(types=types)
    return text[-100:].replace("|", "/")


def compare(expected, got):
    """How far logits are from what they should be.

    Untrained networks give every image much the same logits. So an error is in units of how far
    logits lie from their mean over the images, and the highest logit is found behind that mean.

    Returns:
        median, upper, largest: error of the median, the third quartile and the worst image.
        top1: share of the images with the same highest logit. equal: whether all bits are.
    """
    got = np.asarray(got, np.float32)
    if got.shape != expected.shape or not np.isfinite(got).all():
        return {"failure": f"logits {got.shape}, finite: {np.isfinite(got).all()}"}
    mean = expected.mean(0)
    error = np.abs(got - expected).max(1) / np.abs(expected - mean).max()
    same = (got - mean).argmax(1) == (expected - mean).argmax(1)
    median, upper, largest = (float(np.quantile(error, q)) for q in (0.5, 0.75, 1))
    return {
        "median": median,
        "upper": upper,
        "largest": largest,
        "top1": float(same.mean()),
        "equal": bool((got == expected).all()),
    }


if __name__ == "__main__":
    engine, jobs, out = sys.argv[1:]
    with open(out, "w") as lines:
        for job in json.loads(Path(jobs).read_text()):
            outcomes = {name: attempt(column, job) for name, column in COLUMNS[engine].items()}
            lines.write(json.dumps(outcomes) + "\n")
            lines.flush()
