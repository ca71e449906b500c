"""What records and `secateur doctor` say about a machine, with and without /proc."""

import json
import os
from pathlib import Path

import pytest
import torch

from secateur import machine
from secateur.errors import UsageError
from secateur.terminal import doctor

ARM = """\
processor\t: 0
BogoMIPS\t: 243.75
Features\t: fp asimd evtstrm aes asimddp sve i8mm bf16
CPU implementer\t: 0x41
CPU part\t: 0xd40

processor\t: 1
Features\t: fp asimd
"""
INTEL = """\
processor\t: 0
model name\t: Intel(R) Xeon(R) Platinum 8480+
physical id\t: 0
core id\t\t: 0
flags\t\t: fpu avx2 fma avx512f amx_bf16 amx_tile

processor\t: 1
model name\t: Intel(R) Xeon(R) Platinum 8480+
physical id\t: 0
core id\t\t: 0
flags\t\t: fpu avx2 fma avx512f amx_bf16 amx_tile
"""
CPU = torch.device("cpu")


def forget():
    for function in (machine._machine, machine.bf16, machine.device):
        function.cache_clear()


@pytest.fixture
def pretend(monkeypatch, tmp_path):
    """Return a function that gives the processor another /proc/cpuinfo, or none."""

    def with_cpuinfo(text):
        path = tmp_path / "cpuinfo"
        if text is not None:
            path.write_text(text)
        monkeypatch.setattr(machine, "CPUINFO", path)
        forget()

    yield with_cpuinfo
    forget()


def test_describe_is_json_and_says_this_machine():
    facts = machine.describe()
    assert json.loads(json.dumps(facts)) == facts
    assert set(facts) == {
        *("cpu", "cores", "physical_cores", "memory_gib", "gpu", "instructions", "os")
    }
    assert facts["cpu"]
    assert 1 <= facts["cores"] <= os.cpu_count()
    assert (facts["gpu"] is not None) == torch.cuda.is_available()


def test_what_was_computed_on_one_gpu_of_several_names_it(monkeypatch):
    names = {None: "the first", 0: "the first", 1: "the second"}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda, "get_device_name", lambda device=None: names[getattr(device, "index", None)]
    )
    forget()
    first, second = (machine.describe(torch.device("cuda", n)) for n in (0, 1))
    assert (first["gpu"], second["gpu"]) == ("the first", "the second")
    assert first["device"] == "cuda"
    assert machine.kind(first) != machine.kind(second)
    forget()


def test_the_processor_beside_a_gpu_is_of_another_kind_than_the_gpu():
    machines = {"cpu": "X", "gpu": "Y"}
    on_cpu, on_gpu = ({**machines, "device": device} for device in ("cpu", "cuda"))
    assert machine.kind(on_cpu) == machine.kind({"cpu": "X", "gpu": None}) == "X"
    assert machine.kind(on_gpu) == machine.kind(machines) == "X, Y"
    assert machine.describe(CPU)["device"] == "cpu"


def test_describe_gives_a_copy():
    machine.describe()["instructions"].append("nonsense")
    assert "nonsense" not in machine.describe()["instructions"]


def test_without_proc(pretend):
    pretend(None)
    facts = machine.describe()
    assert facts["cpu"]
    assert facts["cores"] >= 1
    assert json.dumps(facts)


def test_without_proc_and_with_an_older_torch(pretend, monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.delattr(os, "sysconf", raising=False)
    pretend(None)
    facts = machine.describe()
    assert facts["cpu"]
    assert facts["cores"] == os.cpu_count()
    assert facts["physical_cores"] is None
    assert facts["memory_gib"] is None
    assert facts["instructions"] == []
    assert not machine.bf16(CPU)


def test_arm(pretend):
    pretend(ARM)
    facts = machine.describe()
    assert facts["instructions"] == ["bf16", "dotprod", "i8mm", "neon", "sve"]
    assert facts["cpu"]
    assert not machine.bf16(CPU)


def test_two_threads_of_one_core(pretend, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1}, raising=False)
    pretend(INTEL)
    facts = machine.describe()
    assert facts["cpu"] == "Intel(R) Xeon(R) Platinum 8480+"
    assert (facts["cores"], facts["physical_cores"]) == (2, 1)
    assert facts["instructions"] == ["amx_bf16", "amx_tile", "avx2", "avx512f", "fma"]
    assert machine.bf16(CPU) == torch.backends.mkldnn.is_available()


def test_processor_without_bf16(pretend):
    pretend(INTEL.replace("amx_bf16", ""))
    assert not machine.bf16(CPU)


def test_versions():
    found = machine.versions()
    assert set(found) == {"numpy", "python", "secateur", "torch"}
    assert found["torch"] == str(torch.__version__)


def test_auto_is_a_gpu_where_there_is_one():
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert machine.device().type == machine.device("auto").type == expected
    assert machine.device("cpu") == CPU


@pytest.fixture
def no_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    forget()
    yield
    forget()


def test_cuda_without_one(no_cuda):
    assert machine.device() == CPU
    assert not machine.bf16(torch.device("cuda"))
    with pytest.raises(UsageError, match=r"'cuda:1' was asked for, .* choose cpu or auto"):
        machine.device("cuda:1")


def test_cuda_with_too_few(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    forget()
    assert machine.device("cuda") == torch.device("cuda", 0)
    assert machine.device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(UsageError, match="last CUDA device here is cuda:1"):
        machine.device("cuda:2")
    forget()


@pytest.mark.parametrize("name", ["", "gpu", "CPU", "mps", "cuda:", "cuda:-1", "cuda:x", "cpu:0"])
def test_no_such_device(name):
    with pytest.raises(UsageError, match="choose auto, cpu, cuda or cuda:N"):
        machine.device(name)


@pytest.mark.gpu
def test_a_real_gpu():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    assert machine.describe()["gpu"] == torch.cuda.get_device_name(0)
    half = torch.cuda.get_device_capability(0) >= (8, 0)
    assert torch.version.hip or machine.bf16(machine.device("cuda")) == half


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty place for the cache."""
    folder = tmp_path / "not" / "made" / "yet"
    monkeypatch.setenv("SECATEUR_CACHE", str(folder))
    return folder


def examined():
    checks = doctor.examine()
    by_name = {check.name: check for check in checks}
    assert len(by_name) == len(checks)
    return by_name


def test_examine_says_everything_and_changes_nothing(cache):
    checks = examined()
    assert set(checks) == {
        *("secateur", "python", "torch", "processor", "cores", "threads", "memory"),
        *("instructions", "bf16 on processor", "CUDA", "C compiler", "cache", "free space"),
        *("CIFAR-10", "npm", "data sets", "nets", "patterns", "other processes"),
    }
    assert all(check.value for check in checks.values())
    assert all(check.hint for check in checks.values() if check.ok is False)
    assert checks["python"].ok
    assert checks["torch"].ok
    assert "resnet20" in checks["nets"].value
    assert checks["CIFAR-10"].ok is None
    assert "not made yet" in checks["cache"].value
    assert not cache.parent.exists()


@pytest.mark.parametrize(
    ("share", "threads", "ok", "hint"),
    [
        (0.0, 4, True, ""),
        (0.2, 3, True, ""),
        (0.5, 4, None, "set OMP_NUM_THREADS=2"),
        (1.0, 2, None, "set OMP_NUM_THREADS=1"),
        (1.0, 1, True, ""),
        (None, 4, None, ""),
    ],
)
def test_more_threads_than_other_processes_leave_cores_for(
    cache, monkeypatch, share, threads, ok, hint
):
    monkeypatch.setattr(doctor, "usable_cores", lambda: (0, 1, 2, 3))
    monkeypatch.setattr(doctor.OtherProcesses, "share", lambda self: share)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    check = examined()["other processes"]
    assert check.ok is ok
    assert hint in check.hint
    assert bool(check.hint) == bool(hint)
    assert bool(doctor.crowded(torch.device("cpu"))) == bool(hint)
    assert not doctor.crowded(torch.device("cuda", 0))


def test_cache_that_cannot_be_written(cache, monkeypatch):
    def refuse(**options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    check = examined()["cache"]
    assert check.ok is False
    assert "SECATEUR_CACHE" in check.hint


def test_full_disk(cache, monkeypatch):
    full = type("Usage", (), {"free": 2**28})
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: full)
    check = examined()["free space"]
    assert (check.value, check.ok) == ("0.2 GiB", False)


def test_nothing_on_the_path(cache, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    checks = examined()
    assert checks["C compiler"].ok is None
    assert checks["npm"].ok is None


def test_cifar10_in_the_cache_needs_no_space(cache, monkeypatch):
    folder = cache / "cifar10"
    folder.mkdir(parents=True)
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        assert examined()["CIFAR-10"].ok is None
        (folder / f"{name}.bin").touch()
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 0}))
    checks = examined()
    assert checks["CIFAR-10"].ok
    assert checks["free space"].ok
    assert checks["cache"].value == str(cache)


@pytest.mark.skipif(os.name == "nt", reason="writes shell scripts")
def test_programs_that_answer_and_programs_that_fail(cache, monkeypatch, tmp_path):
    for name, script in {"cc": "exit 1", "clang": "echo clang 99", "npm": "echo 12.0"}.items():
        program = Path(tmp_path, name)
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    checks = examined()
    assert checks["C compiler"].value == f"{tmp_path / 'clang'}: clang 99"
    assert checks["npm"].value == "12.0"


def test_threads(cache, monkeypatch):
    cores = machine.describe()["cores"]
    for threads, ok in ((cores, True), (cores + 1, False)):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        check = examined()["threads"]
        assert (check.value, check.ok) == (str(threads), ok)
