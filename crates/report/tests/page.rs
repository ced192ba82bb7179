//! What a caller does with a report: check it, draw it, write it.

use lathe_report::{
    AttentionShape, Better, CoverageEntry, Fact, LayerShape, MlpShape, Phase, Point, Report,
    ReportError, SummaryRow, TrainedNetwork, Training, TrainingValidation, Unit, ValidationPoint,
    ValidationStatistics, render, write,
};

const HOSTILE: &str = "</script><script>alert(1)</script>\"' onload='x' <!-- & \u{2028}";

/// Spoils or empties one field.
type Change = fn(&mut Report);

fn layer(kv_heads: usize, width: usize) -> LayerShape {
    LayerShape {
        attention: (kv_heads > 0).then_some(AttentionShape {
            heads: 3 * kv_heads,
            kv_heads,
        }),
        mlp: (width > 0).then_some(MlpShape {
            intermediate_size: width,
        }),
    }
}

fn point(label: &str, latency_us: f64, kl_divergence: f64, layers: [LayerShape; 2]) -> Point {
    Point {
        label: label.to_owned(),
        latency_us,
        measured_latency_us: None,
        kl_divergence,
        parameters: 1_000_000,
        layers: layers.to_vec(),
    }
}

/// A small report with something in every list, and `name` wherever a name can stand.
fn report(name: &str) -> Report {
    let full = [layer(3, 1536), layer(3, 1536)];
    let cut = [layer(2, 768), layer(0, 0)];
    Report {
        title: name.to_owned(),
        model: name.to_owned(),
        device: vec![Fact {
            name: name.to_owned(),
            value: name.to_owned(),
        }],
        runtime: vec![Fact {
            name: name.to_owned(),
            value: name.to_owned(),
        }],
        full_layers: full.to_vec(),
        base: Some(point(name, 20_000.0, 0.0, full)),
        chosen: Some(point(name, 10_000.0, 0.25, cut.clone())),
        uniform: vec![point(name, 12_000.0, 0.9, [layer(3, 768), layer(3, 768)])],
        evaluations: vec![
            point(name, 10_000.0, 0.25, cut.clone()),
            point(name, 15_000.0, 1.9, cut),
        ],
        front: vec![0],
        summary: vec![SummaryRow {
            name: name.to_owned(),
            base: 20_000.0,
            chosen: 10_000.0,
            unit: Unit::Microseconds,
            better: Better::Lower,
        }],
        validation: vec![ValidationPoint {
            label: name.to_owned(),
            phase: Phase::Decode,
            predicted_us: 10_000.0,
            measured_us: 10_400.0,
            measured_ci95_us: 120.0,
        }],
        validation_notes: vec!["Warning: <moved>.".to_owned()],
        validation_statistics: vec![ValidationStatistics {
            phase: Phase::Decode,
            n: 1,
            mape_percent: 3.8,
            bias_percent: -3.8,
            share_within_5_percent: 1.0,
            share_within_10_percent: 1.0,
            kendall_tau: None,
            spearman: Some(0.5),
        }],
        training: vec![Training {
            name: name.to_owned(),
            losses: vec![(1, 2.5), (2, 2.25)],
            networks: vec![TrainedNetwork {
                name: "smallest".to_owned(),
                validations: vec![TrainingValidation {
                    step: 2,
                    kl_divergence: 0.5,
                    perplexity: 33.5,
                }],
            }],
        }],
        coverage: vec![CoverageEntry {
            block: name.to_owned(),
            phase: Phase::Prefill,
            median_us: 310.0,
            ci95_us: 3.0,
            samples: 64,
            footprint_bytes: 1 << 25,
            flags: vec![name.to_owned()],
        }],
        ..Report::default()
    }
}

fn between<'a>(page: &'a str, start: &str, end: &str) -> &'a str {
    let from = page.find(start).map(|at| at + start.len()).unwrap();
    let length = page[from..].find(end).unwrap();
    &page[from..from + length]
}

fn embedded(page: &str) -> serde_json::Value {
    serde_json::from_str(between(page, "id=\"points\">", "</script>")).unwrap()
}

#[test]
fn hostile_names_stay_text() {
    let page = render(&report(HOSTILE)).unwrap();
    assert_eq!(
        page.matches("<script").count(),
        2,
        "the data and the script, nothing else"
    );
    assert_eq!(page.matches("</script").count(), 2);
    assert!(!page.contains("<!--"));
    let data = embedded(&page);
    let visible = page.split("<script").next().unwrap();
    assert!(!visible.contains("' onload") && visible.contains("&#39; onload"));
    assert!(
        data["points"]
            .as_array()
            .unwrap()
            .iter()
            .all(|p| p["label"] == HOSTILE)
    );
}

#[test]
fn the_page_needs_nothing_from_outside() {
    let page = render(&report("study")).unwrap();
    for reference in ["http://", "https://", " src=", "@import", "<link", "//cdn"] {
        assert!(!page.contains(reference), "{reference}");
    }
    assert!(page.len() < 100_000, "{}", page.len());
}

#[test]
fn the_page_says_what_the_report_says() {
    let page = render(&report("study")).unwrap().replace('\u{202f}', " ");
    for text in [
        "2.00×",
        "\u{2212}50.0 % better",
        "2 sub-networks were evaluated; 1 is on the Pareto front",
        "2 of 6 (33.3 %), 1 block removed",
        "Layer 1: mlp removed",
        "0.278×",
        "error \u{2212}3.8 %",
        "No prefill was measured on whole networks.",
        "±1.0 %",
        "Warning: &lt;moved&gt;.",
        "Loss of the training",
        "study, smallest",
    ] {
        assert!(page.contains(text), "{text}");
    }
}

#[test]
fn the_script_gets_every_point_with_its_layers() {
    let data = embedded(&render(&report("study")).unwrap());
    let points = data["points"].as_array().unwrap();
    let roles: Vec<_> = points.iter().map(|p| p["role"].as_str().unwrap()).collect();
    assert_eq!(
        roles,
        [
            "evaluated",
            "Pareto front",
            "uniform pruning",
            "full model",
            "chosen"
        ]
    );
    let shape = |at: char| data["shapes"][at.to_digit(36).unwrap() as usize].clone();
    let layers: Vec<_> = points[4]["layers"]
        .as_str()
        .unwrap()
        .chars()
        .map(shape)
        .collect();
    assert_eq!(
        layers,
        [serde_json::json!([6, 2, 768]), serde_json::json!([0, 0, 0])]
    );
}

#[test]
fn an_empty_report_says_so_in_every_section() {
    let page = render(&Report::default()).unwrap();
    for text in [
        "no speed-up to give",
        "No comparison of the full model",
        "Not described.",
        "no points to show",
        "chose no sub-network",
        "no uniformly pruned models",
        "No whole network was measured",
        "No error statistics",
        "no entries to show",
    ] {
        assert!(page.contains(text), "{text}");
    }
}

#[test]
fn each_section_may_be_missing_alone() {
    let full = report("study");
    let without: [Change; 8] = [
        |r| r.training.clear(),
        |r| r.base = None,
        |r| r.chosen = None,
        |r| r.uniform.clear(),
        |r| r.front.clear(),
        |r| (r.evaluations.clear(), r.front.clear()).0,
        |r| r.validation.clear(),
        |r| r.coverage.clear(),
    ];
    for remove in without {
        let mut report = full.clone();
        remove(&mut report);
        let page = render(&report).unwrap();
        assert!(!page.contains("NaN") && !page.contains("=\"inf"));
    }
}

#[test]
fn impossible_numbers_are_refused_by_name() {
    let refused = |change: Change| {
        let mut report = report("study");
        change(&mut report);
        let error = report.validate().unwrap_err();
        assert!(render(&report).is_err());
        error.to_string()
    };
    let cases: [(Change, &str); 10] = [
        (
            |r| r.training[0].networks[0].validations[0].perplexity = f64::NAN,
            "training[0].networks[0].validations[0].perplexity is NaN",
        ),
        (
            |r| r.evaluations[1].kl_divergence = f64::NAN,
            "evaluations[1].kl_divergence is NaN",
        ),
        (
            |r| r.uniform[0].latency_us = 0.0,
            "uniform[0].latency_us is 0",
        ),
        (
            |r| r.front = vec![0, 2],
            "front[1] is 2, but evaluations has 2",
        ),
        (
            |r| r.evaluations[0].layers.truncate(1),
            "evaluations[0].layers has 1 layers",
        ),
        (
            |r| r.uniform[0].layers[1] = layer(3, 2048),
            "uniform[0].layers[1].mlp.intermediate_size",
        ),
        (
            |r| r.validation[0].measured_ci95_us = -1.0,
            "validation[0].measured_ci95_us is -1",
        ),
        (
            |r| r.validation_statistics[0].share_within_5_percent = 40.0,
            "validation_statistics[0].share_within_5_percent is 40",
        ),
        (
            |r| r.coverage[0].median_us = f64::INFINITY,
            "coverage[0].median_us is inf",
        ),
        (
            |r| r.summary[0].chosen = f64::NAN,
            "summary[0].chosen is NaN",
        ),
    ];
    for (change, expected) in cases {
        let message = refused(change);
        assert!(message.starts_with(expected), "{message}");
    }
}

#[test]
fn extreme_but_legal_numbers_draw() {
    let mut report = report("study");
    report.evaluations[1].latency_us = 1e-300;
    report.uniform[0].kl_divergence = 0.0;
    report.evaluations[0].kl_divergence = 0.0;
    report.base.as_mut().unwrap().kl_divergence = 1e300;
    report.validation[0].measured_us = f64::MIN_POSITIVE;
    report.coverage[0].median_us = -3.0;
    let page = render(&report).unwrap();
    assert!(!page.contains("NaN") && !page.contains("inf\""));
}

#[test]
fn a_page_is_written_whole_and_the_same_each_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("page.html");
    std::fs::write(&path, "an older page").unwrap();
    write(&report("study"), &path).unwrap();
    assert_eq!(
        std::fs::read_to_string(&path).unwrap(),
        render(&report("study")).unwrap()
    );
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().count(),
        1,
        "no temporary file is left"
    );
}

#[test]
fn a_missing_folder_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = write(&report("study"), folder.path().join("none/page.html")).unwrap_err();
    assert!(matches!(error, ReportError::Write { .. }));
    assert!(error.to_string().contains("none"));
}

#[test]
fn reports_survive_json() {
    let report = report("study");
    let json = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
}
