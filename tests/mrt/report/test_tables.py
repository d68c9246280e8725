"""The terminal's table."""

from mrt.report.tables import estimate, result_table


def test_estimate() -> None:
    assert estimate({"mean": 0.5, "low": 0.4, "high": 0.61}, "{:.2f}") == "0.50 [0.40, 0.61]"
    assert estimate({"mean": 0.5, "low": None, "high": None}, "{:.2f}") == "0.50"
    assert estimate(3, "{:.1f}") == "3.0"
    assert [estimate(value, "{}") for value in (None, float("nan"), {}, "x", True)] == ["–"] * 5


def test_result_table() -> None:
    def result(name: str, accuracy: float) -> dict:
        return {"name": name, "accuracy": {"mean": accuracy, "low": 0.1, "high": 0.9}, "tokens": {"mean": 40}}

    comparison = {
        "a": "mrt",
        "b": "grpo",
        "accuracy": {"mean": 0.1, "low": 0.05, "high": 0.15},
        "tokens_at_equal_accuracy": {"mean": 1.5, "low": 1.2, "high": 1.9},
    }
    lines = result_table([result("grpo", 0.3), result("mrt", 0.4)], [comparison], "grpo").splitlines()
    assert lines[0].split("  ")[0] == "model"
    assert lines[0].endswith("tokens at equal accuracy, grpo : model")
    assert lines[2].split() == ["grpo", "0.300", "[0.100,", "0.900]", "40.0", "–", "–"]
    assert lines[3].split() == ["mrt", "0.400", "[0.100,", "0.900]", "40.0", "–", "1.50", "[1.20,", "1.90]"]
    assert lines[4].split() == ["mrt", "-", "grpo", "+0.100", "[+0.050,", "+0.150]", "–", "–"]
    assert len({line.find("0.", 8) for line in lines[2:4]}) == 1  # columns stand under each other
