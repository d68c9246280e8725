"""What tests share: where the checkout is, toy trainers, references, stand-ins, and programs run as processes."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests" / "fixtures"
