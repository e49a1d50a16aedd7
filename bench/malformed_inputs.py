"""Print what each of the seeded malformed inputs of the tests said.

python bench/malformed_inputs.py
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

TESTS = ("keypoint_malformed", "malformed_inputs", "malformed_lists", "malformed_weights")


def main() -> int:
    """Run the tests of malformed inputs; print a line an input, and the counts."""
    files = [f"tests/test_{name}.py" for name in TESTS]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        # the other family of reports has no properties
        written = ["-o", "junit_family=xunit1", f"--junitxml={report}"]
        command = [sys.executable, "-m", "pytest", "-q", "-n0", *written, *files]
        status = subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode
        cases = list(ElementTree.parse(report).iter("testcase"))
    counts = dict.fromkeys(TESTS, 0)
    for case in cases:
        module = case.attrib["classname"].rsplit(".")[-1].removeprefix("test_")
        said = [p.attrib["value"] for p in case.iter("property") if p.attrib["name"] == "said"]
        counts[module] += bool(said)
        for text in said:
            print(f"{module} {case.attrib['name']}: {text}")
    faults = ("failure", "error")
    failed = sum(any(case.find(fault) is not None for fault in faults) for case in cases)
    print(", ".join(f"{name}: {count} inputs" for name, count in counts.items()))
    print(f"{sum(counts.values())} inputs, {failed} of {len(cases)} tests failed")
    return status


if __name__ == "__main__":
    sys.exit(main())
