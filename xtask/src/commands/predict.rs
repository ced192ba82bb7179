use lathe_arch::{LogitRows, SubnetConfig};
use lathe_latency::LatencyTable;

use super::print_json;
use crate::arguments::Predict;

pub fn run(arguments: &Predict) -> anyhow::Result<()> {
    let table = LatencyTable::load(&arguments.table)?;
    let model = &table.model.dimensions;
    let subnet = match &arguments.subnet {
        Some(path) => lathe_compress::read_subnet(path, model)?.config,
        None => SubnetConfig::full(model),
    };
    let rows = if arguments.all_logits {
        LogitRows::All
    } else {
        LogitRows::Last
    };
    let prediction = table.predict_with_logits(&subnet, &arguments.workload, rows)?;
    if arguments.json {
        return print_json(&prediction);
    }
    let ms = |us: f64| us / 1000.0;
    println!(
        "{} on {} at {}, with 90 % intervals",
        table.model.name, table.device.name, arguments.workload
    );
    println!(
        "time to first token    {:9.2} ms +- {:.2}",
        ms(prediction.ttft_us),
        ms(prediction.ttft_half_width_us)
    );
    println!(
        "time per output token  {:9.2} ms +- {:.2}",
        ms(prediction.tpot_us),
        ms(prediction.tpot_half_width_us)
    );
    if let Some(bytes) = prediction.peak_memory_bytes {
        println!("peak memory            {:9.1} MB", bytes / 1e6);
    }
    println!("whole workload         {:9.2} ms", ms(prediction.total_us));
    if prediction.is_interpolated {
        println!("some widths or heads lie between measured ones");
    }
    Ok(())
}
