"""What several graphs have in common lies in one file beside them, once."""

import hashlib

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from rsquant.errors import ExportError
from rsquant.export.codebook import pack_codes
from rsquant.export.shared import SharedTensors, check_not_needed

# 255 bytes stay where they are, 256 do not.
LARGE = {"large": np.arange(64, dtype=np.float32), "codes": np.arange(257, dtype=np.uint8)}
SMALL = {"small": np.arange(255, dtype=np.uint8), "scalar": np.float32(3)}


def model(**tensors):
    """A graph that gives its own initializers."""
    graph = helper.make_graph([], "constants", [], [])
    for name, value in tensors.items():
        if not isinstance(value, TensorProto):
            value = numpy_helper.from_array(np.asarray(value), name)
        graph.initializer.append(value)
        graph.node.append(helper.make_node("Identity", [name], [f"{name}_out"]))
        graph.output.append(
            helper.make_tensor_value_info(f"{name}_out", value.data_type, value.dims)
        )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(proto)
    return proto


def tensors_of(proto):
    return {tensor.name: tensor for tensor in proto.graph.initializer}


def place(tensor):
    """(file, offset, length), None for a tensor that is in its own file."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    if tensor.data_location != TensorProto.EXTERNAL:
        assert not entries
        return None
    assert not tensor.raw_data
    return entries["location"], int(entries["offset"]), int(entries["length"])


def share_tensors(protos, name):
    """Share what they have in common; returns the content of the file."""
    shared = SharedTensors(name)
    for proto in protos:
        shared.add(proto)
    for proto in protos:
        shared.move(proto)
    return bytes(shared.content)


def write(folder, protos, name="w.bin"):
    """Share and write them as 0.onnx, 1.onnx, ...; returns the content that was shared."""
    folder.mkdir(exist_ok=True)
    content = share_tensors(protos, name)
    (folder / name).write_bytes(content)
    for i, proto in enumerate(protos):
        (folder / f"{i}.onnx").write_bytes(proto.SerializeToString())
    return content


def outputs_in_onnxruntime(path):
    engine = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in engine.get_outputs()]
    return {n.removesuffix("_out"): v for n, v in zip(names, engine.run(names, {}), strict=True)}


def test_equal_tensors_are_stored_once():
    protos = [model(**LARGE), model(**LARGE), model(**LARGE)]
    content = share_tensors(protos, "w.bin")
    assert len(content) == 256 + 257
    for name in LARGE:
        assert len({place(tensors_of(proto)[name]) for proto in protos}) == 1


def test_what_lies_in_the_file_is_the_tensor():
    protos = [model(**LARGE), model(**LARGE)]
    content = share_tensors(protos, "w.bin")
    for name, value in LARGE.items():
        location, offset, length = place(tensors_of(protos[1])[name])
        assert location == "w.bin" and content[offset : offset + length] == value.tobytes()


def test_equal_tensors_of_other_names_are_stored_once():
    one, two = model(a=LARGE["large"]), model(b=LARGE["large"])
    assert share_tensors([one, two], "w.bin") == LARGE["large"].tobytes()
    assert place(tensors_of(one)["a"]) == place(tensors_of(two)["b"]) == ("w.bin", 0, 256)


@pytest.mark.parametrize(
    "other",
    [
        LARGE["large"] + 1,
        LARGE["large"].view(np.int32),
        LARGE["large"].reshape(8, 8),
        LARGE["large"][:-1],
    ],
    ids=["value", "type", "shape", "length"],
)
def test_tensors_that_differ_stay_in_their_graphs(other):
    protos = [model(a=LARGE["large"]), model(a=other)]
    before = [proto.graph.SerializeToString() for proto in protos]
    assert share_tensors(protos, "w.bin") == b""
    assert [proto.graph.SerializeToString() for proto in protos] == before


def test_a_tensor_that_two_of_three_graphs_have_is_shared_by_those():
    protos = [model(a=LARGE["large"]), model(a=LARGE["large"] + 1), model(a=LARGE["large"])]
    share_tensors(protos, "w.bin")
    assert [place(tensors_of(p)["a"]) is None for p in protos] == [False, True, False]


def test_a_tensor_that_one_graph_has_twice_is_not_shared():
    protos = [model(a=LARGE["large"], b=LARGE["large"]), model(a=LARGE["codes"])]
    assert share_tensors(protos, "w.bin") == b""


def test_small_tensors_stay_in_their_graphs():
    protos = [model(**SMALL), model(**SMALL)]
    before = protos[0].graph.SerializeToString()
    assert share_tensors(protos, "w.bin") == b""
    assert protos[0].graph.SerializeToString() == before


@pytest.mark.parametrize("length", [256, 257, 319, 320, 321])
def test_tensors_start_at_multiples_of_64_bytes_and_do_not_overlap(length):
    # onnxruntime maps the file where a tensor is aligned.
    rng = np.random.default_rng(0)
    tensors = {f"t{i}": rng.integers(0, 256, length, dtype=np.uint8) for i in range(4)}
    proto = model(**tensors)
    content = share_tensors([proto, model(**tensors)], "w.bin")
    places = sorted(place(tensor)[1:] for tensor in proto.graph.initializer)
    step = -(-length // 64) * 64
    assert places == [(i * step, length) for i in range(4)]
    assert len(content) == 3 * step + length


def test_the_metadata_says_which_file_and_what_is_in_it():
    protos = [model(**LARGE), model(**LARGE), model(**SMALL)]
    protos[0].metadata_props.add(key="arch", value="resnet18")
    content = share_tensors(protos, "w.bin")
    expected = {"weights": "w.bin", "weights_sha256": hashlib.sha256(content).hexdigest()}
    found = [{entry.key: entry.value for entry in proto.metadata_props} for proto in protos]
    assert found == [{"arch": "resnet18", **expected}, expected, expected]


def test_onnx_reads_back_what_was_shared(tmp_path):
    write(tmp_path, [model(**LARGE, **SMALL), model(**LARGE, own=np.zeros(999))])
    first, second = (onnx.load(tmp_path / f"{i}.onnx") for i in range(2))
    for proto, expected in ((first, LARGE | SMALL), (second, LARGE | {"own": np.zeros(999)})):
        read = {name: numpy_helper.to_array(t) for name, t in tensors_of(proto).items()}
        assert read.keys() == expected.keys()
        for name, value in expected.items():
            assert read[name].dtype == value.dtype and np.array_equal(read[name], value)


def test_the_checker_accepts_the_files(tmp_path):
    write(tmp_path, [model(**LARGE), model(**LARGE)])
    onnx.checker.check_model(str(tmp_path / "0.onnx"), full_check=True)


def test_onnxruntime_runs_every_graph_from_the_folder(tmp_path):
    shift = LARGE["large"] + 1
    write(tmp_path, [model(**LARGE, **SMALL), model(codes=LARGE["codes"], large=shift)])
    for i, expected in enumerate([LARGE | SMALL, {"codes": LARGE["codes"], "large": shift}]):
        found = outputs_in_onnxruntime(tmp_path / f"{i}.onnx")
        assert all(np.array_equal(found[name], value) for name, value in expected.items())


def test_the_files_work_in_another_folder_when_moved_together(tmp_path, monkeypatch):
    write(tmp_path / "old", [model(**LARGE), model(**LARGE)])
    (tmp_path / "old").rename(tmp_path / "new")
    # Files are found beside the graph, not in the working folder.
    monkeypatch.chdir(tmp_path)
    found = outputs_in_onnxruntime("new/1.onnx")
    assert all(np.array_equal(found[name], value) for name, value in LARGE.items())


@pytest.mark.parametrize("count", [1021, 1024, 1025])
def test_two_bit_codes_are_shared_packed(tmp_path, count):
    # 1,021 are the fewest that take 256 bytes.
    codes = np.random.default_rng(0).integers(0, 4, count).astype(np.uint8)
    packed = pack_codes(codes, 2)

    def graph():
        tensor = TensorProto(
            name="codes", data_type=TensorProto.UINT2, dims=[count], raw_data=packed.tobytes()
        )
        info = helper.make_tensor_value_info("bytes", TensorProto.UINT8, [count])
        node = helper.make_node("Cast", ["codes"], ["bytes"], to=TensorProto.UINT8)
        made = helper.make_graph([node], "codes", [], [info], [tensor])
        return helper.make_model(made, opset_imports=[helper.make_opsetid("", 25)], ir_version=13)

    assert write(tmp_path, [graph(), graph()]) == packed.tobytes()
    assert np.array_equal(outputs_in_onnxruntime(tmp_path / "0.onnx")["bytes"], codes)
    read = tensors_of(onnx.load(tmp_path / "1.onnx"))["codes"]
    assert np.array_equal(numpy_helper.to_array(read).astype(np.uint8), codes)


# Replacing the file.


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, [model(**LARGE), model(**LARGE)])
    return tmp_path


def test_a_file_that_another_graph_needs_cannot_be_replaced(folder):
    expected = r"w\.bin: cannot be replaced, 1\.onnx needs it unchanged"
    with pytest.raises(ExportError, match=expected):
        check_not_needed(folder / "w.bin", [folder / "0.onnx"])


def test_a_file_may_be_replaced_together_with_all_that_need_it(folder):
    check_not_needed(folder / "w.bin", [folder / "0.onnx", folder / "1.onnx", folder / "2.onnx"])


def test_a_file_may_be_replaced_when_what_needed_it_is_gone(folder):
    (folder / "1.onnx").unlink()
    check_not_needed(folder / "w.bin", [folder / "0.onnx"])


def test_a_file_that_is_not_there_is_needed_by_nobody(folder):
    # Then 1.onnx is broken already.
    (folder / "w.bin").unlink()
    check_not_needed(folder / "w.bin", [folder / "0.onnx"])


def test_graphs_that_need_another_file_or_none_do_not_matter(folder):
    other = folder / "other.bin"
    other.write_bytes(b"")
    (folder / "plain.onnx").write_bytes(model(**LARGE).SerializeToString())
    check_not_needed(other, [])


def test_a_graph_that_lost_its_other_files_is_still_looked_at(folder):
    protos = [model(a=LARGE["large"]), model(a=LARGE["large"])]
    write(folder / "elsewhere", protos, "gone.bin")
    (folder / "a.onnx").write_bytes(protos[0].SerializeToString())
    check_not_needed(folder / "w.bin", [folder / "0.onnx", folder / "1.onnx"])
    with pytest.raises(ExportError, match=r"1\.onnx needs it"):
        check_not_needed(folder / "w.bin", [folder / "0.onnx"])


@pytest.mark.parametrize("content", [b"", b"no graph", bytes(range(256))], ids=len)
def test_files_that_are_no_graphs_need_nothing(folder, content):
    (folder / "x.onnx").write_bytes(content)
    (folder / "folder.onnx").mkdir()
    check_not_needed(folder / "w.bin", [folder / "0.onnx", folder / "1.onnx"])


def test_graphs_in_other_folders_do_not_matter(folder):
    write(folder / "elsewhere", [model(**LARGE), model(**LARGE)])
    check_not_needed(folder / "w.bin", [folder / "0.onnx", folder / "1.onnx"])
