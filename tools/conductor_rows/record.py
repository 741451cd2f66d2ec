"""Let Conductor's own classes answer the rows of tests/data/task_model_rows.json, and write their answers into it.

    python tools/conductor_rows/record.py conductor-server-3.32.3-boot.jar

The jar is org.conductoross:conductor-server, classifier "boot", of Maven Central; the JDK is one of 21 or newer.
"""

import argparse
import base64
import json
import subprocess
import tempfile
import zipfile
from pathlib import Path

ROWS = Path(__file__).parents[2] / "tests/data/task_model_rows.json"
SOURCE = Path(__file__).with_name("AsTask.java")


def main() -> None:
    """Unpack the jar, compile, run, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("jar", type=Path)
    parser.add_argument("--java-home", type=Path, help="a JDK; without it, the javac and java of the path")
    options = parser.parse_args()
    programs = "" if options.java_home is None else f"{options.java_home}/bin/"
    cases = json.loads(ROWS.read_text())
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(options.jar) as jar:
            jar.extractall(folder, [name for name in jar.namelist() if name.startswith("BOOT-INF/lib/")])
        class_path = f"{folder}:{folder}/BOOT-INF/lib/*"
        subprocess.run([f"{programs}javac", "-proc:none", "-cp", class_path, "-d", folder, SOURCE], check=True)
        rows = "".join(base64.b64encode(case["row"].encode()).decode() + "\n" for case in cases)
        java = [f"{programs}java", "-Dfile.encoding=UTF-8", "-cp", class_path, "AsTask"]
        output = subprocess.run(java, input=rows, stdout=subprocess.PIPE, text=True, check=True).stdout
    # Libraries print lines of their own.
    answers = [line.removeprefix("task ") for line in output.splitlines() if line.startswith("task ")]
    for case, answer in zip(cases, answers, strict=True):
        case["task"] = None if answer == "refused" else base64.b64decode(answer).decode()
    ROWS.write_text(json.dumps(cases, indent=1) + "\n")
    print(f"{len(cases)} rows answered, {answers.count('refused')} of them refused")


if __name__ == "__main__":
    main()
