"""Programs expire, executables do not: what is said when, and with which exit code."""

import dataclasses
import datetime
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import synthetic
import toy
from conftest import Finished, aot, built

import aot as product
from aot.builder import releases
from aot.bundle import store
from aot.bundle.writer import Writer
from aot.cli import main
from aot.errors import ExpiredError, InputError, MachineError
from aot.runtime import expiry, fit

LAST = datetime.date(2026, 12, 31)  # of the synthetic bundle
DAY = datetime.timedelta(days=1)


def put_clock(monkeypatch: pytest.MonkeyPatch, day: datetime.date) -> None:
    monkeypatch.setattr(expiry, "today", lambda: day)


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., Finished]:
    def command(*arguments: object) -> Finished:
        capfd.readouterr()
        code = main.run([str(argument) for argument in arguments])
        return Finished(code, *capfd.readouterr())

    return command


@pytest.fixture(scope="module")
def toy_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("toy")
    return built(toy.manifest(home / "model"), home / "bundle")


def dated(bundle: Path, day: str, destination: Path) -> Path:
    """A copy of a bundle that was valid until another day."""
    opened = store.open(bundle)
    with Writer.stage(destination) as writer:
        writer.adopt(opened)
        writer.publish(dataclasses.replace(opened.index, valid_until=day))
    return destination


def test_the_end_is_told_from_eight_weeks_before_and_not_earlier(monkeypatch: pytest.MonkeyPatch) -> None:
    index, said = synthetic.index(), {}
    for left in (57, 56, 1, 0, -1):
        put_clock(monkeypatch, LAST - left * DAY)
        said[left] = (expiry.notice(Path("b"), index), expiry.expired(index))

    assert said == {
        57: (None, False),
        56: ("bundle b: its programs expire after 2026-12-31, in 56 days; renew them: aot refresh b -o NEW", False),
        1: ("bundle b: its programs expire after 2026-12-31, in 1 day; renew them: aot refresh b -o NEW", False),
        0: (
            "bundle b: its programs expire after 2026-12-31, today is the last day; renew them: aot refresh b -o NEW",
            False,
        ),
        -1: ("bundle b: its programs expired after 2026-12-31; renew them: aot refresh b -o NEW", True),
    }


@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_check_of_an_expired_bundle_exits_7_with_date_command_and_verdicts(
    as_json: list[str], tmp_path: Path, run: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    synthetic.write(tmp_path / "bundle")
    put_clock(monkeypatch, LAST + DAY)
    done = run("check", tmp_path / "bundle", *as_json)

    assert done.code == 7
    assert done.err.splitlines() == [
        f"bundle {tmp_path / 'bundle'}: its programs expired after 2026-12-31; "
        f"renew them: aot refresh {tmp_path / 'bundle'} -o NEW"
    ]
    assert len(done.document["entries"]) == 4 if as_json else done.out.count("prefill") == 2


def test_check_keeps_its_verdict_while_it_only_warns(
    toy_bundle: Path, run: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    last = datetime.date.fromisoformat(store.open(toy_bundle).index.valid_until)
    put_clock(monkeypatch, last - 57 * DAY)
    early = run("check", toy_bundle, "--json")
    put_clock(monkeypatch, last)
    late = run("check", toy_bundle, "--json")

    assert (early.code, late.code) == (0, 0)
    assert early.out == late.out
    assert (len(early.err.splitlines()), len(late.err.splitlines())) == (0, 1)


def test_a_bundle_that_is_expired_by_the_real_clock_exits_7(toy_bundle: Path, tmp_path: Path) -> None:
    done = aot("check", dated(toy_bundle, "2020-01-31", tmp_path / "old"), "--json")

    assert (done.code, {entry["verdict"] for entry in done.document["entries"]}) == (7, {"ready"})
    assert "2020-01-31" in done.err
    assert f"aot refresh {tmp_path / 'old'} -o NEW" in done.err


def test_an_expired_bundle_serves_from_its_executables_and_warns_once(
    toy_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = dated(toy_bundle, "2020-01-31", tmp_path / "old")
    with caplog.at_level(logging.WARNING, "aot"):
        found = product.load(old).call("scale", x=[1.0, 2.0])["y"].tolist()

    assert found == product.load(toy_bundle).call("scale", x=[1.0, 2.0])["y"].tolist()
    assert [record.getMessage() for record in caplog.records] == [
        f"bundle {old}: its programs expired after 2020-01-31; renew them: aot refresh {old} -o NEW"
    ]


@pytest.mark.parametrize("policy", ["strict", "compile"])
def test_a_program_that_would_have_to_be_compiled_too_late_is_refused(
    policy: str, toy_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = dated(toy_bundle, "2020-01-31", tmp_path / "old")
    monkeypatch.setattr(fit, "jaxlib", lambda: "0.0.1")

    with pytest.raises(ExpiredError, match=r"would have to be compiled .*scale.*2020-01-31.*aot refresh .* -o NEW"):
        product.load(old, policy=policy).call("scale", x=[1.0])


def test_before_its_end_the_policy_decides_what_becomes_of_such_a_program(
    toy_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    young = dated(toy_bundle, "9999-12-31", tmp_path / "young")
    monkeypatch.setattr(fit, "jaxlib", lambda: "0.0.1")

    assert product.load(young, policy="compile").call("scale", x=[2.0])["y"].tolist() == [0.0]
    with pytest.raises(MachineError, match="no executable"):
        product.load(young).call("scale", x=[1.0])


def test_run_only_warns_while_executables_fit_and_exits_7_where_one_is_lacking(
    tiny_bundle: Path, run: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = ("run", tiny_bundle, "--prompt", "def main(", "--max-new-tokens", 2)
    fresh = run(*arguments)
    put_clock(monkeypatch, datetime.date(9999, 1, 1))
    with caplog.at_level(logging.WARNING, "aot"):
        late = run(*arguments)
    monkeypatch.setattr(fit, "jaxlib", lambda: "0.0.1")
    lacking = run(*arguments, "--policy", "compile")

    assert (fresh.code, late.code, late.out) == (0, 0, fresh.out)
    assert "expired" in caplog.text
    assert (lacking.code, lacking.out) == (7, "")
    assert "aot refresh" in lacking.err


@pytest.mark.parametrize(
    ("day", "end"), [("2026-06-17", "2026-12-17"), ("2026-08-31", "2027-02-28"), ("2027-08-31", "2028-02-29")]
)
def test_programs_are_valid_for_six_months_from_their_release(
    day: str, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(releases, "table", lambda: {"1.2.3": day})

    assert releases.valid_until("1.2.3") == end


def test_a_release_of_unknown_date_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"jax 0\.10\.3: .* knows 0\.10\.2, .*; install one"):
        releases.valid_until("0.10.3")
