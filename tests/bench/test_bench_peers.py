import ast
import importlib
import subprocess
import sys
import time
from pathlib import Path

import pytest
from places import ROOT

TOOLS = ROOT / "tools"
sys.path.insert(0, str(TOOLS))

from peers import NAMES, measured  # noqa: E402, it lies in tools


@pytest.mark.parametrize("name", NAMES)
def test_a_peer_says_what_it_is_pins_what_it_installs_and_names_its_variants(name):
    peer = importlib.import_module(f"peers.{name}")

    assert ast.get_docstring(ast.parse((TOOLS / "peers" / f"{name}.py").read_text()))
    assert all("==" in requirement for requirement in peer.REQUIREMENTS)
    assert set(peer.VARIANTS) <= set(measured.BITS)
    assert all(isinstance(variants, tuple) and variants for variants in peer.VARIANTS.values())


@pytest.mark.parametrize("name", [*NAMES, "measured"])
def test_the_process_of_a_peer_begins_with_the_standard_library_alone(name):
    code = f"import sys, peers.{name}; print(*{{each.partition('.')[0] for each in sys.modules}})"

    done = subprocess.run([sys.executable, "-S", "-P", "-c", code], capture_output=True, text=True, check=True,
                          env={"PYTHONPATH": str(TOOLS)})  # fmt: skip

    assert set(done.stdout.split()) - sys.stdlib_module_names <= {"peers", "__main__"}


def test_variants_of_a_dtype_have_names_of_their_own():
    peers = [importlib.import_module(f"peers.{name}") for name in NAMES]

    for dtype in measured.BITS:
        names = [variant for peer in peers for variant in peer.VARIANTS.get(dtype, ())]
        assert len(names) == len(set(names))


def test_the_document_of_a_peer_counts_from_the_start_and_leaves_the_first_run_out(monkeypatch):
    asked = []

    def generate(ids, count, emit):
        asked.append(ids)
        for token in range(count):
            emit(token)

    monkeypatch.setenv("AOT_BENCH_START", "0")
    document = measured.measure(lambda imported: imported() or generate)

    points = [document[name] for name in ("import", "open", "first_token", "sixteen")]
    assert points == sorted(points)
    assert document["tokens"] == list(range(measured.TOKENS))
    assert len({ids[0] for ids in asked}) == len(asked) == 1 + len(document["prefill"])
    assert len(document["decode"]) == len(document["prefill"])


def test_bench_says_what_it_does_and_refuses_a_peer_that_it_does_not_know():
    def bench(*arguments):
        return subprocess.run([sys.executable, TOOLS / "bench", *arguments], capture_output=True, text=True)

    helped, refused = bench("--help"), bench("--peers", "llama_cpp,vllm")

    assert (helped.returncode, helped.stdout.startswith("usage: bench")) == (0, True)
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith("bench: error: --peers: unknown vllm; known: llama_cpp, ")


def test_bench_that_is_terminated_leaves_no_contestant_behind(tmp_path):
    noted = tmp_path / "contestant"
    toy = f"import os, time; open({str(noted)!r}, 'w').write(str(os.getpid())); time.sleep(99)"
    code = f"""if True:
        import sys
        sys.path.insert(0, {str(TOOLS)!r})
        from importlib.machinery import SourceFileLoader
        from aot.bench.process import Contestant
        bench = SourceFileLoader("bench", {str(TOOLS / "bench")!r}).load_module()
        bench.contestants = lambda *_: [Contestant("toy", (sys.executable, "-c", {toy!r}), {{}}, (), 0)]
        bench.main()
    """
    with subprocess.Popen([sys.executable, "-W", "ignore", "-c", code]) as bench:
        while not (noted.exists() and noted.read_text()):
            assert bench.poll() is None
            time.sleep(0.01)
        bench.terminate()

    assert bench.returncode == 143
    assert not Path(f"/proc/{noted.read_text()}").exists()
