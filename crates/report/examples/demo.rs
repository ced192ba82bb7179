//! Draws a page from generated numbers: `cargo run -p lathe-report --example demo -- page.html`.
//!
//! The numbers follow no measurement; they only have the shape of a study.

use lathe_report::{
    AttentionShape, Better, CoverageEntry, Fact, LayerShape, MlpShape, Phase, Point, Report,
    SummaryRow, TrainedNetwork, Training, TrainingValidation, Unit, ValidationPoint,
    ValidationStatistics, Workload, write,
};

const LAYERS: usize = 30;
const FULL_WIDTH: usize = 1536;
const KV_HEADS: usize = 3;

/// Numbers between 0 and 1 that look random and are always the same (Weyl sequence).
struct Noise(f64);

impl Noise {
    fn next(&mut self) -> f64 {
        self.0 = (self.0 + 0.618_033_988_749_895).fract();
        (self.0 * 9_301.7).fract()
    }
}

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

fn point(label: String, layers: Vec<LayerShape>, penalty: f64) -> Point {
    let groups: usize = layers
        .iter()
        .filter_map(|l| l.attention.as_ref())
        .map(|a| a.kv_heads)
        .sum();
    let width: usize = layers
        .iter()
        .filter_map(|l| l.mlp.as_ref())
        .map(|m| m.intermediate_size)
        .sum();
    let (groups, width) = (
        groups as f64 / (LAYERS * KV_HEADS) as f64,
        width as f64 / (LAYERS * FULL_WIDTH) as f64,
    );
    let latency_us = 4_200.0 + 6_100.0 * groups + 13_900.0 * width;
    let cut = 1.0 - 0.35 * groups - 0.65 * width;
    Point {
        label,
        latency_us,
        measured_latency_us: None,
        kl_divergence: 2.1 * cut + 9.0 * cut * cut * penalty,
        parameters: 28_311_552 + ((26.6 * groups + 79.6 * width) * 1e6) as u64,
        layers,
    }
}

fn searched(index: usize, noise: &mut Noise) -> Point {
    let keep = 0.35 + 0.65 * noise.next();
    let layers = (0..LAYERS)
        .map(|_| {
            let groups = ((keep - 0.1 + 0.6 * noise.next()) * KV_HEADS as f64).min(3.0) as usize;
            let eighths = ((keep + 0.7 * (noise.next() - 0.5)) * 8.0).clamp(0.0, 8.0) as usize;
            layer(groups, eighths * FULL_WIDTH / 8)
        })
        .collect();
    let penalty = 0.1 + 0.9 * noise.next();
    point(format!("evaluation {index}"), layers, penalty)
}

fn front(points: &[Point]) -> Vec<usize> {
    let beats =
        |a: &Point, b: &Point| a.latency_us <= b.latency_us && a.kl_divergence < b.kl_divergence;
    (0..points.len())
        .filter(|&i| !points.iter().any(|p| beats(p, &points[i])))
        .collect()
}

fn validation(evaluations: &[Point], noise: &mut Noise) -> Vec<ValidationPoint> {
    let networks = evaluations.iter().step_by(12).take(30);
    networks
        .flat_map(|point| Phase::ALL.map(|phase| (point, phase)))
        .map(|(point, phase)| {
            let prefill = if phase == Phase::Prefill { 21.0 } else { 1.0 };
            let predicted_us = point.latency_us * prefill;
            ValidationPoint {
                label: point.label.clone(),
                phase,
                predicted_us,
                measured_us: predicted_us * (0.93 + 0.16 * noise.next()),
                measured_ci95_us: predicted_us * (0.005 + 0.02 * noise.next()),
            }
        })
        .collect()
}

fn statistics(points: &[ValidationPoint], phase: Phase) -> ValidationStatistics {
    let errors: Vec<f64> = points
        .iter()
        .filter(|p| p.phase == phase)
        .map(|p| 100.0 * (p.predicted_us - p.measured_us) / p.measured_us)
        .collect();
    let n = errors.len() as f64;
    let within = |limit: f64| errors.iter().filter(|e| e.abs() <= limit).count() as f64 / n;
    ValidationStatistics {
        phase,
        n: errors.len(),
        mape_percent: errors.iter().map(|e| e.abs()).sum::<f64>() / n,
        bias_percent: errors.iter().sum::<f64>() / n,
        share_within_5_percent: within(5.0),
        share_within_10_percent: within(10.0),
        kendall_tau: None,
        spearman: None,
    }
}

fn coverage(noise: &mut Noise) -> Vec<CoverageEntry> {
    let attention = (1..=KV_HEADS).map(|n| (format!("attention, {n} KV groups"), n * 196_608));
    let mlp = (1..=8).map(|n| (format!("mlp, width {}", n * 192), n * 192 * 576 * 3));
    attention
        .chain(mlp)
        .flat_map(|(block, weights)| Phase::ALL.map(|phase| (block.clone(), weights as f64, phase)))
        .map(|(block, weights, phase)| {
            let prefill = if phase == Phase::Prefill { 21.0 } else { 1.0 };
            let median_us = weights / 5_700.0 * prefill;
            let uncertainty = 0.004 + 0.06 * noise.next().powi(3);
            let is_wide = uncertainty > 0.03;
            CoverageEntry {
                block,
                phase,
                median_us,
                ci95_us: median_us * uncertainty,
                samples: 40 + (200.0 * noise.next()) as u64,
                footprint_bytes: weights as u64 * 4 * 24,
                flags: if is_wide {
                    vec!["wide interval".to_owned()]
                } else {
                    Vec::new()
                },
            }
        })
        .collect()
}

fn summary(base: &Point, chosen: &Point) -> Vec<SummaryRow> {
    let row = |name: &str, unit, value: &dyn Fn(&Point) -> f64| SummaryRow {
        name: name.to_owned(),
        base: value(base),
        chosen: value(chosen),
        unit,
        better: Better::Lower,
    };
    vec![
        row("Time to first token", Unit::Microseconds, &|p| {
            p.latency_us * 21.0
        }),
        row("Time per output token", Unit::Microseconds, &|p| {
            p.latency_us
        }),
        row("Perplexity", Unit::Plain, &|p| 14.2 * p.kl_divergence.exp()),
        row("Parameters", Unit::Count, &|p| p.parameters as f64),
        row("Size, f32", Unit::Bytes, &|p| p.parameters as f64 * 4.0),
    ]
}

fn facts(facts: &[(&str, &str)]) -> Vec<Fact> {
    let fact = |(name, value): &(&str, &str)| Fact {
        name: (*name).into(),
        value: (*value).into(),
    };
    facts.iter().map(fact).collect()
}

fn study() -> Option<Report> {
    let mut noise = Noise(0.2);
    let evaluations: Vec<Point> = (0..400).map(|i| searched(i, &mut noise)).collect();
    let front = front(&evaluations);
    let full_layers = vec![layer(KV_HEADS, FULL_WIDTH); LAYERS];
    let base = point("SmolLM2-135M".to_owned(), full_layers.clone(), 1.0);
    let uniform = [6, 5, 4].map(|n| {
        let layers = vec![layer(KV_HEADS, n * FULL_WIDTH / 8); LAYERS];
        point(format!("uniform width {}", n * FULL_WIDTH / 8), layers, 0.9)
    });
    let knee = front.iter().copied().min_by(|&a, &b| {
        let cost =
            |i: usize| evaluations[i].latency_us / 24_200.0 + evaluations[i].kl_divergence / 5.0;
        cost(a).total_cmp(&cost(b))
    })?;
    let chosen = evaluations[knee].clone();
    let validation = validation(&evaluations, &mut noise);
    Some(Report {
        title: "Generated study: SmolLM2-135M".to_owned(),
        model: "SmolLM2-135M".to_owned(),
        device: facts(&[
            ("Device", "generated, not measured"),
            ("Cores", "4"),
            ("Memory", "8 GiB"),
        ]),
        runtime: facts(&[
            ("Runtime", "ONNX Runtime"),
            ("Provider", "CPU"),
            ("Threads", "4"),
        ]),
        workload: Workload {
            batch: 1,
            prompt_tokens: 256,
            generated_tokens: 128,
        },
        summary: summary(&base, &chosen),
        training: vec![training(&mut noise)],
        validation_notes: Vec::new(),
        validation_statistics: Phase::ALL
            .map(|phase| statistics(&validation, phase))
            .to_vec(),
        coverage: coverage(&mut noise),
        full_layers,
        base: Some(base),
        chosen: Some(chosen),
        uniform: uniform.to_vec(),
        evaluations,
        front,
        validation,
    })
}

fn training(noise: &mut Noise) -> Training {
    let left = |step: u64| (-(step as f64) / 200.0).exp();
    let network = |(name, most): (&str, f64)| TrainedNetwork {
        name: name.to_owned(),
        validations: (0..=600)
            .step_by(100)
            .map(|step| TrainingValidation {
                step,
                kl_divergence: 0.3 + left(step),
                perplexity: 25.0 + most * left(step),
            })
            .collect(),
    };
    let losses = (1..=600).map(|step| (step, 2.0 + left(step) + 0.3 * noise.next()));
    Training {
        name: "adapter".to_owned(),
        losses: losses.collect(),
        networks: [("largest", 5.0), ("median", 25.0), ("smallest", 80.0)]
            .map(network)
            .to_vec(),
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("usage: demo PAGE.html")?;
    let report = study().ok_or("the generated study has no front")?;
    write(&report, &path)?;
    Ok(())
}
