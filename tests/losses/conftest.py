from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]  # of_paper.py, tests/tiny_faces.py; spawned ranks inherit the path
