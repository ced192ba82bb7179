//! What the command line answers to names, files and disks that are not as they should be.

use std::fs;
use std::path::Path;
use std::process::Command;

use lathe_arch::{MlpConfig, SubnetConfig};
use lathe_latency::LatencyTable;
use lathe_search::{Study, StudyHeader};
use lathe_tests::Desk;

#[test]
fn names_that_do_not_exist_are_answered_with_those_that_do() {
    let desk = Desk::with_text();
    let message = desk.fails(&["profile", "--model", "smollm3"]);
    assert!(
        message.contains("smollm3") && message.contains("smollm2-135m"),
        "{message}"
    );
    let message = desk.fails(&["profile", "--device", "pixel"]);
    assert!(
        message.contains("pixel") && message.contains("local"),
        "{message}"
    );
    let again = desk.text("again.yaml");
    fs::write(&again, "name: again\ntransport: local\n").unwrap();
    for (devices, word) in [
        (["local", &again], "disturb"),
        (["raspberry-pi-5", "raspberry-pi-5"], "the same name"),
    ] {
        let message = desk.fails(&["profile", "--device", devices[0], "--device", devices[1]]);
        assert!(message.contains(word), "{message}");
    }
    // The fetched runtime for this machine has its own kernels alone.
    let other = desk.text("other.yaml");
    let spec = "name: other\ntransport: local\nexecution_provider: xnnpack\n";
    fs::write(&other, spec).unwrap();
    let message = desk.fails(&["profile", "--device", &other]);
    assert!(
        message.contains("XnnpackExecutionProvider") && message.contains("ort_lib"),
        "{message}"
    );
    let phones = [
        "profile", "--device", "pixel-8", "--device", "local", "--out",
    ];
    let message = desk.fails(&[&phones[..], &["t.yaml"]].concat());
    assert!(message.contains("--out"), "{message}");
    let message = desk.fails(&["fetch", "--ort-lib", "/nowhere/lib.so"]);
    assert!(
        message.contains("/nowhere/lib.so") && message.contains("--ort-lib"),
        "{message}"
    );
    let message = desk.fails(&["predict", "--table", "t", "--workload", "12"]);
    assert!(message.contains("128+128"), "{message}");
    for command in [&["search", "--study", "s"][..], &["compare"]] {
        let message = desk.fails(&[command, &["--table", "t", "--levels", "0.8,1.5"]].concat());
        assert!(
            message.contains("--levels") && message.contains("1.5"),
            "{message}"
        );
    }
    for command in ["train", "heal", "compare"] {
        let message = desk.fails(&[command, "--distill-share", "NaN"]);
        assert!(message.contains("--distill-share"), "{message}");
    }
    let none = desk.fails(&["evaluate", "--task", "mmlu", "--questions", "0"]);
    assert!(none.contains("--questions"), "{none}");
    let unread = ["--train-text", &desk.text("text.txt")];
    let message = desk.fails(&[&["compare", "--table", "t"][..], &unread].concat());
    assert!(message.contains("--heal-steps"), "{message}");
    let crowd = ["--population", "18446744073709551615"];
    let message = desk.fails(&[&["search", "--table", "t", "--study", "s"], &crowd[..]].concat());
    assert!(message.contains("from 1 to 100000"), "{message}");
    let model = desk.model();
    let outside = ["profile", "--model", &model, "--prompt", "8", "--out"];
    let message = desk.fails(&[&outside[..], &[&desk.text("table.yaml")]].concat());
    assert!(message.contains("--workload"), "{message}");
    for (flag, value) in [
        ("--minutes", "-1"),
        ("--minutes", "inf"),
        ("--interval", "NaN"),
    ] {
        let message = desk.fails(&["profile", &format!("{flag}={value}")]);
        assert!(message.contains(flag), "{message}");
    }
    assert!(desk.fails(&["fly"]).contains("fly"));
}

#[test]
fn damaged_files_are_named_with_their_field() {
    let desk = Desk::with_text();
    let (model, table) = (desk.model(), desk.profile());
    let text = fs::read_to_string(&table).unwrap();
    let write = |name: &str, text: &str| {
        fs::write(desk.path(name), text).unwrap();
        desk.text(name)
    };
    // A table cut short, with a wrong number, from elsewhere.
    for (damaged, word) in [
        (text[..text.len() / 2].to_owned(), "bad.yaml"),
        (text.replacen("median_us: ", "median_us: -", 1), "median_us"),
        (text.replacen("version: 4", "version: 7", 1), "version"),
    ] {
        let table = write("bad.yaml", &damaged);
        let message = desk.fails(&["predict", "--table", &table]);
        assert!(
            message.contains("bad.yaml") && message.contains(word),
            "{message}"
        );
    }
    let cpu = text
        .lines()
        .find(|line| line.contains("cpu_model"))
        .unwrap();
    let elsewhere = write(
        "elsewhere.yaml",
        &text.replace(cpu, "  cpu_model: another machine"),
    );
    let message = desk.fails(&["validate", "--table", &elsewhere, "--subnets", "2"]);
    assert!(
        message.contains("another machine") && message.contains("profile"),
        "{message}"
    );
    let build = text.lines().find(|line| line.contains("build:")).unwrap();
    let elsewhere = write("elsewhere.yaml", &text.replace(build, "  build: '1.0'"));
    let message = desk.fails(&["validate", "--table", &elsewhere, "--subnets", "2"]);
    assert!(message.contains("runtime"), "{message}");
    // A sub-network of another model, and one that is none.
    let dimensions = LatencyTable::load(Path::new(&table))
        .unwrap()
        .model
        .dimensions;
    let mut subnet = SubnetConfig::full(&dimensions);
    subnet.layers[1].mlp = Some(MlpConfig::with_width(97));
    let wide = write("wide.yaml", &serde_yaml::to_string(&subnet).unwrap());
    let message = desk.fails(&["predict", "--table", &table, "--subnet", &wide]);
    assert!(
        message.contains("wide.yaml") && message.contains("layers[1].mlp"),
        "{message}"
    );
    // Files without an end are not read to it.
    for endless in [
        vec!["predict", "--table", "/dev/zero"],
        vec!["predict", "--table", &table, "--subnet", "/dev/zero"],
    ] {
        let message = desk.fails(&endless);
        assert!(message.contains("/dev/zero: more than"), "{message}");
    }
    // Whoever mistypes does not wait for a calibration first.
    let message = desk.fails(&["evaluate", "--model", &model, "--subnet", &wide]);
    assert!(
        message.contains("layers[1].mlp") && !message.contains("reading the checkpoint"),
        "{message}"
    );
    let none = write(
        "none.yaml",
        "version: 1\nmodel: m\nlayers:\n- attention: 3\n",
    );
    let message = desk.fails(&["predict", "--table", &table, "--subnet", &none]);
    assert!(
        message.contains("none.yaml") && message.contains("line"),
        "{message}"
    );
    // A study that is none.
    let study = write(
        "study.db",
        "this is no database, but a longer text than a header",
    );
    let common = [
        "search", "--model", &model, "--table", &table, "--study", &study,
    ];
    let text = desk.text("text.txt");
    let message = desk.fails(
        &[
            &common[..],
            &[
                "--text",
                &text,
                "--calibration-tokens",
                "512",
                "--tokens",
                "512",
            ],
        ]
        .concat(),
    );
    assert!(message.contains("study.db"), "{message}");
    // A study of something else.
    let study = desk.path("other.db");
    let header = StudyHeader {
        problem: "another".to_owned(),
        cardinalities: vec![2],
        objectives: vec!["latency_us".to_owned(), "perplexity".to_owned()],
        low_fidelities: Vec::new(),
        method: "random".to_owned(),
        options: String::new(),
        seed: 1,
        batch: 1,
    };
    drop(Study::open_or_create(&study, &header, false).unwrap());
    let (study, page) = (desk.text("other.db"), desk.text("page.html"));
    let message = desk.fails(&[
        "report", "--study", &study, "--table", &table, "--out", &page,
    ]);
    assert!(
        message.contains("perplexity") && message.contains("kl_divergence"),
        "{message}"
    );
    // A model that is none.
    let gguf = write("model.gguf", "GGUF\u{3}\0\0\0");
    let message = desk.fails(&["evaluate", "--model", &gguf]);
    assert!(message.contains("model.gguf"), "{message}");
}

#[cfg(unix)]
#[test]
fn a_full_disk_is_named_and_leaves_no_half_file() {
    let desk = Desk::with_text();
    let (model, text, out) = (desk.model(), desk.text("text.txt"), desk.text("exported"));
    let common = [
        "--model",
        &model,
        "--text",
        &text,
        "--calibration-tokens",
        "512",
    ];
    // A limit on the size of files stands for a full disk; the signal that comes with it is
    // ignored, so the write itself fails.
    let limited = "trap '' XFSZ; ulimit -f 100; exec \"$@\"";
    let export = desk.command(&[]);
    let output = Command::new("bash")
        .args(["-c", limited, "bash"])
        .arg(export.get_program())
        .args([&["export", "--out", &out], &common[..]].concat())
        .current_dir(export.get_current_dir().unwrap())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert!(errors.contains("model.onnx.data"), "{errors}");
    assert!(!errors.contains("panicked"), "{errors}");
    let left = fs::read_dir(desk.path("exported")).unwrap().flatten();
    let left: Vec<_> = left.map(|entry| entry.file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
}
