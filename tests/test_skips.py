import pytest

from tests.skips import EXPECTED, UnexpectedSkips

pytest_plugins = "pytester"
_OPTIONS = ("-p", "no:timeout", "-p", "no:xdist", "-p", "no:hypothesispytest")


def test_run_fails_for_unexpected_skips_only(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_module="import pytest\npytest.importorskip('no_such_module')",
        test_known=f"import pytest\ndef test_passes(): pass\ndef test_skips(): pytest.skip('{EXPECTED[0]}')\n"
        "@pytest.mark.xfail\ndef test_fails(): assert False",
        test_other="import pytest\ndef test_passes(): pass\ndef test_skips(): pytest.skip('no chromium')",
    )
    for files, skips in ((("test_known.py",), []), ((), ["test_module.py", "test_other.py::test_skips"])):
        plugin = UnexpectedSkips()
        result = pytester.inline_run(*_OPTIONS, *files, plugins=[plugin])
        assert sorted(line.partition(": ")[0] for line in plugin.lines) == skips
        assert result.ret == (1 if skips else 0)
