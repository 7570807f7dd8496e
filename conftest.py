"""What the tests of all folders share before anything else: the markers that say what a test needs; the browser."""

pytest_plugins = [
    *("tests.plugins.needs", "tests.plugins.browser", "tests.plugins.toys", "tests.plugins.workers"),
    *("tests.plugins.certificates", "tests.plugins.images"),
]
