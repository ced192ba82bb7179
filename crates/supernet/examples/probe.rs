//! probe
use lathe_arch::*;
use lathe_supernet::checkpoint::Checkpoint;
use lathe_supernet::*;
use std::time::Instant;
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let t = Instant::now();
    let ck = Checkpoint::load(args[1].as_ref())?;
    println!("load {:?} params {}", t.elapsed(), ck.weights.parameters());
    let t = Instant::now();
    let un = Supernet::unordered(&ck.config, &ck.weights);
    println!("unordered {:?}", t.elapsed());
    let p = ck.tokenizer.encode("The capital of France is");
    println!("{p:?}");
    let t = Instant::now();
    let g = greedy(&un.full(), &p, 12)?;
    println!("{:?} {:?}", ck.tokenizer.decode(&g), t.elapsed());
    let text = std::fs::read_to_string(&args[2])?;
    let splits = TextSplits::new(text.split("\n \n").map(String::from), 1);
    let w = splits.windows(Split::Calibration, &ck.tokenizer, 16, 512)?;
    let t = Instant::now();
    let cal = Calibration::measure(&un, &w, |_| {});
    println!("calibrate {:?}", t.elapsed());
    let t = Instant::now();
    let sn = Supernet::ordered(&ck.config, &ck.weights, &cal)?;
    println!("ordered {:?}", t.elapsed());
    let w = splits.windows(Split::Search, &ck.tokenizer, 4, 512)?;
    let t = Instant::now();
    let ev = Evaluator::new(&sn, &w)?;
    println!("teacher {:?}", t.elapsed());
    let full = SubnetConfig::full(&ck.config);
    let mut score = |name: &str, c: &SubnetConfig| -> Result<(), Box<dyn std::error::Error>> {
        let t = Instant::now();
        let cut = sn.cut(c)?;
        let t1 = t.elapsed();
        let q = ev.perplexity(&cut);
        println!(
            "{name}: ppl {:.3} cut {t1:?} eval {:?}",
            q.perplexity(),
            t.elapsed()
        );
        Ok(())
    };
    score("full", &full)?;
    for wd in [1344, 1152, 960] {
        score(
            &format!("mlp {wd}"),
            &SubnetConfig::uniform(
                &ck.config,
                Some(AttentionConfig::full(&ck.config)),
                Some(MlpConfig::with_width(wd)),
            ),
        )?;
    }
    for kv in [2, 1] {
        score(
            &format!("kv {kv}"),
            &SubnetConfig::uniform(
                &ck.config,
                Some(AttentionConfig::with_groups(&ck.config, kv)),
                Some(MlpConfig::full(&ck.config)),
            ),
        )?;
    }
    let mut c = full.clone();
    for l in [5, 6, 7, 9, 12, 22, 25, 26, 29] {
        c.layers[l].attention = None;
    }
    score("9 attn removed", &c)?;
    Ok(())
}
