"""XLA_FLAGS of the environment that this jaxlib refuses: a bundle is served all the same, or the flag is named."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import aot

from aot.runtime.fitting import fit

LIBRARY = """
import os, sys
import aot
try:
    with aot.load(sys.argv[1]) as model:
        print(model.generate([1, 2, 3], max_new_tokens=4).token_ids, os.environ["XLA_FLAGS"])
finally:
    print("finally")
"""


def served(bundle: Path, script: str = LIBRARY, **variables: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", script, bundle]
    return subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("client", ["jaxlib", "jax"])
def test_flags_that_this_jaxlib_does_not_know_are_left_out_with_a_line(tiny_bundle: Path, client: str) -> None:
    known = "--xla_cpu_enable_fast_math=true"
    flags = f"--xla_gpu_enable_triton_softmax_fusion=true {known} --xla_of_tomorrow=1"
    plain = served(tiny_bundle, XLA_FLAGS=known)
    done = served(tiny_bundle, XLA_FLAGS=flags, AOT_CLIENT=client)

    assert done.returncode == 0, done.stderr
    assert done.stdout == plain.stdout
    assert known in done.stdout
    assert done.stderr.splitlines() == [
        f"XLA_FLAGS: jaxlib {fit.jaxlib_version()} does not know --xla_gpu_enable_triton_softmax_fusion=true "
        "--xla_of_tomorrow=1; left out"
    ]


@pytest.mark.parametrize(
    ("flags", "cause"),
    [
        ("--xla_cpu_enable_fast_math=maybe", "Couldn't interpret value maybe for flag xla_cpu_enable_fast_math."),
        ("/no/such/file", 'Could not open file "/no/such/file"'),
    ],
)
def test_flags_that_are_wrong_are_an_error_by_name_and_no_end_of_the_process(
    tiny_bundle: Path, flags: str, cause: str
) -> None:
    done = aot("run", tiny_bundle, "--prompt-ids", "1,2,3", XLA_FLAGS=flags)
    library = served(tiny_bundle, XLA_FLAGS=flags)

    assert done.code == 4
    assert done.err.startswith(f"XLA_FLAGS: jaxlib {fit.jaxlib_version()} refuses it: {cause}")
    assert done.err.count("\n") == 1
    assert library.stdout == "finally\n"
    assert f"MachineError: XLA_FLAGS: jaxlib {fit.jaxlib_version()} refuses it: {cause}" in library.stderr
