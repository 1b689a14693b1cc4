"""Reports: the right ranges, plots whatever happens, and files that need nothing from elsewhere."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import cls.report
from cls.report import evidently_report, run_report, to_frame
from detectors.columns import Categorical
from detectors.detector import KLDetector
from tests.unit.cls.drift_scene import PromotionRow, Scene, SceneLog, make_scene

PNG = b"\x89PNG\r\n\x1a\n"


def report(scene: Scene, **options: Any) -> dict[str, Any]:
    return run_report(
        scene.job,
        scene.log,
        scene.artifacts,
        scene.verdicts,
        scene.promotions,
        reference_rows=3000,
        **options,
    )


def drawn(scene: Scene, result: dict[str, Any]) -> list[dict[str, Any]]:
    features: list[dict[str, Any]] = json.loads(scene.artifacts.get(result["files"]["features.json"]))[
        "features"
    ]
    return features


@pytest.fixture
def without_evidently(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> bytes:
        raise ImportError("No module named 'evidently'")

    monkeypatch.setattr(cls.report, "evidently_report", fail)


@pytest.mark.usefixtures("without_evidently")
def test_the_plots_outlive_evidently() -> None:
    scene = make_scene()
    scene.promotions.append(PromotionRow(2, 2, 5000, scene.promotions[0].reference))
    result = report(scene)
    assert set(result["files"]) == {"drift.png", "features.png", "features.json"}
    for name in ("drift.png", "features.png"):
        image = scene.artifacts.get(result["files"][name])
        assert image.startswith(PNG)
        assert b"http" not in image.replace(
            b"https://matplotlib.org/", b""
        )  # its signature is all that is named
    assert "evidently" in result["error"]
    assert scene.log.asked == [(1000, 4000), (4000, 6000)]  # reference before the onset, current from it on
    assert result["metrics"]["windows"] == 12
    assert result["metrics"]["alarms"] == 4
    assert result["metrics"]["reference_rows"] == 3000


@pytest.mark.usefixtures("without_evidently")
def test_histograms_are_the_shares_of_the_reference_in_force_and_of_the_rows_since_the_onset() -> None:
    scene = make_scene()
    features = drawn(scene, report(scene))
    assert {feature["name"] for feature in features} == {"wind", "carrier"}  # what is empty has not moved
    since = scene.log.events("flights", 4000, 6000).columns
    counts = scene.profile.count(since)
    for bins, reference_K, current_K in zip(
        scene.profile.features,
        scene.profile.split(scene.profile.counts),
        scene.profile.split(counts),
        strict=True,
    ):
        found = [feature for feature in features if feature["name"] == bins.name]
        told = {
            label: shares
            for label, *shares in zip(bins.labels(), reference_K / 3000, current_K / 2000, strict=True)
        }
        for feature in found:
            assert feature["whole"]
            shown = {
                part["label"]: [part["reference_share"], part["current_share"]] for part in feature["bins"]
            }
            assert shown == {label: pytest.approx(shares) for label, shares in told.items()}


@pytest.mark.usefixtures("without_evidently")
def test_the_verdicts_own_reference_is_drawn_not_a_later_one() -> None:
    scene = make_scene()
    features = drawn(scene, report(scene))
    scene.promotions.append(
        PromotionRow(2, 2, 5900, "f" * 64)
    )  # promoted since; its profile is not even there
    assert drawn(scene, report(scene)) == features


@pytest.mark.usefixtures("without_evidently")
def test_a_profile_that_is_gone_leaves_the_bins_that_the_verdict_names() -> None:
    scene = make_scene()
    scene.promotions[0].reference = "f" * 64
    result = report(scene)
    assert "no whole histograms" in result["error"]
    features = drawn(scene, result)
    assert features
    assert not any(feature["whole"] for feature in features)
    named = {f["name"]: f["top_bins"] for f in (scene.verdicts[-1].drift or {})["features"]}
    for feature in features:
        told = [[part["label"], part["reference_share"], part["current_share"]] for part in feature["bins"]]
        assert told == named[feature["name"]]


@pytest.mark.usefixtures("without_evidently")
def test_an_alarm_of_outputs_is_drawn_before_the_inputs() -> None:
    scene = make_scene()
    detector = KLDetector()
    rng = np.random.default_rng(1)
    profile = detector.profile({"prediction": rng.normal(size=3000)})
    moved = detector.compare(profile, profile.count({"prediction": rng.normal(1, 1, 500)}))
    scene.verdicts.append(
        replace(
            scene.verdicts[-1],
            detector="prediction",
            drift=moved.to_json(),
            diagnosis=None,
            start=5501,
            promotion=1,
        )
    )
    features = drawn(scene, report(scene))
    assert features[0]["name"] == "prediction"
    assert {feature["name"] for feature in features[1:]} == {"wind", "carrier"}
    assert [feature["whole"] for feature in features] == [False, True, True]


@pytest.mark.usefixtures("without_evidently")
def test_nothing_after_the_as_of_is_seen() -> None:
    scene = make_scene()
    scene.job = replace(scene.job, input=replace(scene.job.input, event_to=4000, onset=3000))
    result = run_report(
        scene.job, scene.log, scene.artifacts, scene.verdicts, scene.promotions, reference_rows=500
    )
    assert scene.log.asked == [(2500, 3000), (3500, 4000)]
    assert result["metrics"]["windows"] == 8
    assert result["metrics"]["alarms"] == 0


@pytest.mark.usefixtures("without_evidently")
def test_a_report_of_nothing_says_so() -> None:
    scene = make_scene()
    scene.job = replace(scene.job, input=replace(scene.job.input, event_to=1000, onset=None))
    result = run_report(scene.job, scene.log, scene.artifacts, [], [])
    assert scene.log.asked == [(0, 500), (500, 1000)]  # without an onset, halves of what there is
    assert set(result["files"]) == {"drift.png", "features.png", "features.json"}
    assert "no version was promoted" in result["error"]


def test_a_frame_keeps_values_and_what_is_missing() -> None:
    events = make_scene(windows=1, change=1).log.events("flights", 0, 50)
    frame = to_frame(events)
    column = events.columns["carrier"]
    assert isinstance(column, Categorical)
    assert frame["carrier"].isna().tolist() == (column.codes < 0).tolist()
    assert set(frame["carrier"].dropna()) == {"UA", "AA", "DL"}
    assert frame["wind"].tolist() == np.asarray(events.columns["wind"]).tolist()


def test_evidently_is_not_asked_about_nothing() -> None:
    frame = to_frame(make_scene(windows=1, change=1).log.events("flights", 0, 10))
    with pytest.raises(ValueError, match="nothing to compare"):
        evidently_report(frame.iloc[:0], frame)
    with pytest.raises(ValueError, match="no column"):
        evidently_report(frame[["empty"]], frame[["empty"]])


@pytest.mark.slow
def test_evidently_makes_one_self_contained_page() -> None:
    log: SceneLog = make_scene().log
    page = evidently_report(to_frame(log.events("", 0, 4000)), to_frame(log.events("", 4000, 6000)))
    assert b"wind" in page
    assert b"carrier" in page
    assert len(page) < 20_000_000
    loaded = re.findall(
        rb"<(?:script|link|img|iframe)[^>]{0,300}?(?:src|href)=[\"']?(?:https?:)?//[^\"'> ]+", page
    )
    assert loaded == []
