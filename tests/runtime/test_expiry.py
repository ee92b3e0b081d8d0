"""Programs expire, executables do not: what is said when, of bundles and before there are any, with which exit code."""

import datetime
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import synthetic
import toy
from bundles import TODAY, dated
from commands import Finished, aot, built

import aot as product
from aot.builder import workers
from aot.builder.stages import releases
from aot.builder.stages.releases import Release
from aot.bundle import store
from aot.cli import main
from aot.errors import ExpiredError, InputError, MachineError
from aot.runtime.fitting import expiry, fit

LAST = datetime.date(2026, 12, 31)  # of the synthetic bundle
DAY = datetime.timedelta(days=1)


def put_clock(monkeypatch: pytest.MonkeyPatch, day: datetime.date) -> None:
    monkeypatch.setenv(expiry.TODAY_VARIABLE, day.isoformat())


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


def test_the_end_is_told_from_eight_weeks_before_and_not_earlier(monkeypatch: pytest.MonkeyPatch) -> None:
    last, said = LAST.isoformat(), {}
    for left in (57, 56, 1, 0, -1):
        put_clock(monkeypatch, LAST - left * DAY)
        said[left] = (expiry.expiry_notice("b", last, "renew them"), expiry.has_expired(last))

    assert said == {
        57: (None, False),
        56: ("b: its programs expire after 2026-12-31, in 56 days; renew them", False),
        1: ("b: its programs expire after 2026-12-31, in 1 day; renew them", False),
        0: ("b: its programs expire after 2026-12-31, today is the last day; renew them", False),
        -1: ("b: its programs expired after 2026-12-31; renew them", True),
    }


def test_the_real_clock_decides_where_no_day_is_named(tmp_path: Path) -> None:
    now = datetime.datetime.now(datetime.UTC).date()
    synthetic.write(tmp_path / "bundle")
    days = {name: (now + days * DAY).isoformat() for name, days in (("old", -1), ("young", 2))}
    done = {
        name: aot("check", dated(tmp_path / "bundle", day, tmp_path / name), AOT_TODAY="") for name, day in days.items()
    }

    assert f"its programs expired after {days['old']};" in done["old"].err
    assert f"its programs expire after {days['young']}, in " in done["young"].err
    assert done["old"].code == 7 != done["young"].code


def test_the_day_of_the_tests_holds_in_the_processes_that_they_start(tmp_path: Path) -> None:
    synthetic.write(tmp_path / "bundle")
    done = aot("check", dated(tmp_path / "bundle", TODAY, tmp_path / "old"))

    assert f"its programs expire after {TODAY}, today is the last day;" in done.err


def test_a_day_that_is_none_is_refused_by_the_name_of_its_variable(
    tmp_path: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = asked(tmp_path)
    monkeypatch.setenv("AOT_TODAY", "2026-02-30")
    line = "AOT_TODAY: must be a day as YYYY-MM-DD, got '2026-02-30'; mend or unset it"

    for arguments in (commands["plan"], commands["build"], commands["refresh"], ("check", tmp_path / "bundle")):
        assert refused(2, *arguments) == line


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


def test_the_executables_of_an_expired_bundle_stay_ready(toy_bundle: Path, tmp_path: Path) -> None:
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
    monkeypatch.setattr(fit, "jaxlib_version", lambda: "0.0.1")

    with pytest.raises(ExpiredError, match=r"would have to be compiled .*scale.*2020-01-31.*aot refresh .* -o NEW"):
        product.load(old, policy=policy).call("scale", x=[1.0])


def test_before_its_end_the_policy_decides_what_becomes_of_such_a_program(
    toy_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    young = dated(toy_bundle, "9999-12-31", tmp_path / "young")
    monkeypatch.setattr(fit, "jaxlib_version", lambda: "0.0.1")

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
    monkeypatch.setattr(fit, "jaxlib_version", lambda: "0.0.1")
    lacking = run(*arguments, "--policy", "compile")

    assert (fresh.code, late.code, late.out) == (0, 0, fresh.out)
    assert "expired" in caplog.text
    assert (lacking.code, lacking.out) == (7, "")
    assert "aot refresh" in lacking.err


@pytest.mark.parametrize(
    ("day", "end"), [("2026-06-17", "2026-12-17"), ("2026-08-31", "2027-02-28"), ("2027-08-31", "2028-02-29")]
)
def test_programs_are_valid_for_six_months_from_their_release(day: str, end: str) -> None:
    assert Release("1.2.3", datetime.date.fromisoformat(day)).valid_until == end


DAYS = {"0.10.2": "2026-06-17", "0.11.0": "2026-07-16", "0.11.1": "2026-08-17"}
Install = Callable[[str], None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Has another jax installed, in this process and for all that it reads of it, beside a table of three releases."""
    monkeypatch.setattr(releases, "release_days", lambda: DAYS)
    return lambda version: monkeypatch.setattr(releases, "_installed", lambda: version)


def test_the_table_goes_by_the_days_of_the_releases() -> None:
    found = releases.release_days()

    assert sorted(found, key=found.__getitem__) == list(found)
    assert all(datetime.date.fromisoformat(day).isoformat() == day for day in found.values())


def test_the_day_of_a_release_is_that_of_the_table_or_else_what_is_told(install: Install) -> None:
    told = datetime.date(2026, 6, 30)
    install("0.10.3")
    unknown = releases.installed(told)
    install("0.10.2")

    assert unknown == Release("0.10.3", told, stated=True)
    assert releases.installed() == releases.installed(datetime.date(2026, 6, 17))
    assert releases.installed() == Release("0.10.2", datetime.date(2026, 6, 17), stated=False)


@pytest.mark.parametrize(
    ("version", "told", "line"),
    [
        (
            "0.10.3",
            None,
            "jax 0.10.3: its release date is unknown, this aot knows 0.10.2, 0.11.1; install one of these, or say the "
            "day with --jax-released YYYY-MM-DD",
        ),
        (
            "0.10.3",
            "2026-07-02",
            "--jax-released 2026-07-02: is after today, 2026-07-01; say the day on which jax 0.10.3 was released",
        ),
        (
            "0.10.2",
            "2026-06-18",
            "--jax-released 2026-06-18: jax 0.10.2 was released on 2026-06-17; leave the option out",
        ),
        ("0.11.0", None, "jax 0.11.0 is not supported; install 0.11.1 or newer"),
        ("0.11.0", "2026-07-16", "jax 0.11.0 is not supported; install 0.11.1 or newer"),
    ],
)
def test_a_jax_that_is_broken_or_of_a_day_unknown_or_wrong_is_refused_by_name(
    version: str, told: str | None, line: str, install: Install
) -> None:
    install(version)

    with pytest.raises(InputError) as caught:
        releases.installed(None if told is None else datetime.date.fromisoformat(told))
    assert str(caught.value) == line


def test_the_advice_names_the_newest_jax_that_is_no_broken_one_and_the_python_that_it_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(releases, "release_days", lambda: DAYS)
    old, new = (Release(version, datetime.date.fromisoformat(DAYS[version])) for version in ("0.10.2", "0.11.1"))
    monkeypatch.setattr(releases, "_PYTHON", (3, 99))
    on_older = [releases.newer(old), releases.newer(new)]
    monkeypatch.setattr(releases, "_PYTHON", (3, 1))
    on_newer = releases.newer(old)
    monkeypatch.setattr(releases, "release_days", lambda: {name: DAYS[name] for name in ("0.10.2", "0.11.0")})

    assert on_older == ["install jax 0.11.1, on Python 3.99 or newer", "install a newer jax"]
    assert on_newer == "install jax 0.11.1"
    assert releases.newer(old) == "install a newer jax"


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is lowered, exported or compiled: no worker starts."""

    def start(*_: object) -> None:
        raise AssertionError("a worker was started")

    monkeypatch.setattr(workers.Worker, "__init__", start)


def asked(home: Path) -> dict[str, tuple[object, ...]]:
    """The commands that ask when the jax was released, each with a manifest and a bundle."""
    manifest = toy.manifest(home / "model")
    synthetic.write(home / "bundle")
    return {
        "plan": ("plan", manifest),
        "build": ("build", manifest, "-o", home / "new"),
        "refresh": ("refresh", home / "bundle", "-o", home / "new"),
        "audit": ("audit", home / "bundle", "--manifest", manifest),
        "explain": ("explain", home / "bundle", "--against", manifest),
    }


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize("command", ["plan", "build", "refresh", "audit", "explain"])
def test_an_unfit_jax_is_refused_before_anything_is_lowered(
    command: str, tmp_path: Path, install: Install, refused: Callable[..., str]
) -> None:
    arguments = asked(tmp_path)[command]
    install("0.10.3")

    assert "jax 0.10.3: its release date is unknown" in refused(2, *arguments)
    assert "is after today" in refused(2, *arguments, "--jax-released", "2026-07-02")
    install("0.11.0")
    assert "jax 0.11.0 is not supported" in refused(2, *arguments)


@pytest.mark.usefixtures("idle")
def test_a_broken_jax_tunes_nothing(tmp_path: Path, install: Install, refused: Callable[..., str]) -> None:
    install("0.11.0")

    assert "jax 0.11.0 is not supported" in refused(2, "tune", toy.manifest(tmp_path / "model"))


@pytest.mark.usefixtures("idle")
def test_what_would_be_expired_from_the_start_is_neither_built_nor_refreshed(
    tmp_path: Path, install: Install, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = asked(tmp_path)
    monkeypatch.setattr(releases, "_PYTHON", (3, 1))
    install("0.10.2")
    put_clock(monkeypatch, datetime.date(2026, 12, 18))
    said = "jax 0.10.2: its programs expired after 2026-12-17; install jax 0.11.1"

    assert refused(7, *commands["build"]) == f"{said}, or build with --allow-expired"
    assert refused(7, *commands["refresh"]) == said


def test_what_is_expired_is_built_where_that_is_allowed_and_only_remarked_on(
    tmp_path: Path, run: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    until = releases.installed().valid_until
    put_clock(monkeypatch, datetime.date.fromisoformat(until) + DAY)
    done = run("build", toy.manifest(tmp_path / "model"), "-o", tmp_path / "bundle", "--allow-expired", "--json")

    assert done.code == 0, done.err
    assert done.document["valid_until"] == store.open(tmp_path / "bundle").index.valid_until == until
    assert f"remark: jax {releases.installed().version}: its programs expired after {until}; install " in done.err


def test_plan_and_build_remark_from_eight_weeks_before_the_end_and_not_earlier(
    tmp_path: Path, run: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, release = toy.manifest(tmp_path / "model"), releases.installed()
    remarks = {}
    for left in (57, 56, -1):
        put_clock(monkeypatch, datetime.date.fromisoformat(release.valid_until) - left * DAY)
        remarks[left] = releases.expiry_remarks(release)
        done = run("plan", manifest, "--json")
        assert (done.code, done.document["valid_until"]) == (0, release.valid_until)
        assert done.err.splitlines() == [f"remark: {remark}" for remark in remarks[left]]
    put_clock(monkeypatch, datetime.date.fromisoformat(release.valid_until) - 56 * DAY)
    built = run("build", manifest, "-o", tmp_path / "bundle")
    place, end = f"jax {release.version}: its programs", release.valid_until

    assert remarks == {
        57: (),
        56: (f"{place} expire after {end}, in 56 days; {releases.newer(release)}",),
        -1: (f"{place} expired after {end}; {releases.newer(release)}",),
    }
    assert built.err.splitlines()[0] == f"remark: {remarks[56][0]}"
    assert built.out.splitlines()[1] == f"valid until {end}"
