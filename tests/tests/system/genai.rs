//! An exported folder runs in onnxruntime-genai and gives our own greedy tokens.

use std::path::{Path, PathBuf};
use std::process::Command;

use lathe_arch::SubnetConfig;
use lathe_export::export_onnx;
use lathe_onnx::LogitRows;
use lathe_supernet::greedy;

/// Version that is tested.
const GENAI: &str = "onnxruntime-genai==0.18.0";

const SCRIPT: &str = "
import sys, json
import onnxruntime_genai as og
model = og.Model(sys.argv[1])
text, prompt, count = sys.argv[2], json.loads(sys.argv[3]), int(sys.argv[4])
tokenizer = og.Tokenizer(model)
encoded = [int(token) for token in tokenizer.encode(text)]
found = []
for share in (True, False):
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(max_length=len(prompt) + count, past_present_share_buffer=share, do_sample=False)
    generator = og.Generator(model, parameters)
    generator.append_tokens(prompt)
    tokens = []
    for _ in range(count):
        generator.generate_next_token()
        tokens.append(int(generator.get_next_tokens()[0]))
    found.append(tokens)
print(json.dumps([encoded] + found))
";

/// The package, installed once into the cache.
fn genai_folder() -> PathBuf {
    let folder = lathe_tests::cache()
        .root()
        .join("test")
        .join(GENAI.replace("==", "-"));
    let done = folder.join(".installed");
    if !done.is_file() {
        let status = Command::new("python3")
            .args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--only-binary=:all:",
                "--target",
            ])
            .arg(&folder)
            .args([GENAI, "onnxruntime==1.32.0"])
            .status()
            .expect("python3 can be run");
        assert!(status.success(), "{GENAI} cannot be installed");
        std::fs::write(done, "").unwrap();
    }
    folder
}

fn run(folder: &Path, text: &str, prompt: &[u32], count: usize) -> Vec<Vec<u32>> {
    let output = Command::new("python3")
        .env("PYTHONPATH", genai_folder())
        .args(["-c", SCRIPT])
        .arg(folder)
        .args([
            text,
            &serde_json::to_string(prompt).unwrap(),
            &count.to_string(),
        ])
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn greedy_tokens_and_tokenization_are_ours() {
    agrees("tiny-llama");
}

#[test]
fn greedy_tokens_of_other_families_are_ours() {
    lathe_tests::OTHER_FAMILIES.into_iter().for_each(agrees);
}

fn agrees(name: &str) {
    let (checkpoint, supernet) = lathe_tests::tiny_of(name);
    let model = &checkpoint.config;
    let text = "the quick brown model";
    let prompt = checkpoint.tokenizer.encode(text).unwrap();
    for config in [SubnetConfig::full(model), lathe_tests::uneven(model)] {
        let subnet = supernet.cut(&config).unwrap();
        let folder = tempfile::tempdir().unwrap();
        export_onnx(
            folder.path(),
            &subnet,
            Some(&checkpoint.tokenizer),
            LogitRows::Last,
        )
        .unwrap();
        let ours = greedy(&subnet, &prompt, 32).unwrap();
        let theirs = run(folder.path(), text, &prompt, 32);
        assert_eq!(theirs[0], prompt, "{name}");
        assert_eq!(theirs[1], ours, "{name} with a shared buffer");
        assert_eq!(theirs[2], ours, "{name} without a shared buffer");
    }
}
