//! The agent program. See the library for its protocol.

use std::io::{BufRead, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use lathe_agent::{Answer, Failed, Hello, Job, MAX_LINE_BYTES, PROTOCOL_VERSION, Request};

mod device;

use device::{Kept, Provider, Runtime};

/// Runs ONNX models on this device for Lathe: jobs come in as JSON lines, answers go out.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// ONNX Runtime's shared library.
    #[arg(long, env = "ORT_DYLIB_PATH", value_name = "PATH")]
    ort_lib: PathBuf,
    /// Processors to run on; any when absent.
    #[arg(long, value_delimiter = ',', value_name = "N,N")]
    affinity: Vec<usize>,
    /// What runs the operators.
    #[arg(long, value_enum, default_value = "cpu")]
    execution_provider: Provider,
    /// Most memory for data; any when absent.
    #[arg(long, value_name = "MIB")]
    memory_cap_mib: Option<u64>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match start(&arguments).and_then(|runtime| serve(&runtime)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let message = format!("{error:#}");
            let failed = Failed { id: None, message };
            // When even this line cannot be written, the parent is gone.
            let _gone = say(&Answer::Failed(failed));
            ExitCode::from(2)
        }
    }
}

fn start(arguments: &Arguments) -> anyhow::Result<Runtime> {
    device::limit_memory(arguments.memory_cap_mib)?;
    device::end_with_reader();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    // Before the runtime starts threads, which inherit it.
    device::bind(&arguments.affinity)?;
    let library = &arguments.ort_lib;
    let unloadable = |error: String| {
        anyhow::anyhow!(
            "ONNX Runtime's library {} cannot be loaded: {error}",
            library.display()
        )
    };
    let builder = ort::init_from(library).map_err(|error| unloadable(error.to_string()))?;
    let runtime = builder.with_name("lathe").with_telemetry(false).build();
    let runtime = runtime.map_err(|error| unloadable(error.to_string()))?;
    runtime.set_log_level(ort::logging::LogLevel::Error);
    arguments.execution_provider.check()?;
    say(&Answer::Hello(Hello {
        protocol: PROTOCOL_VERSION,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        runtime_build: ort::info().to_owned(),
        os: std::env::consts::OS.to_owned(),
        arch: std::env::consts::ARCH.to_owned(),
        processors,
        is_emulated: device::is_emulated(),
    }))?;
    Runtime::bound(runtime, arguments.execution_provider)
}

/// Serves requests until the input ends.
fn serve(runtime: &Runtime) -> anyhow::Result<()> {
    let mut input = std::io::stdin().lock();
    let mut line = Vec::new();
    let mut kept = Kept::new();
    loop {
        line.clear();
        let limit = MAX_LINE_BYTES as u64;
        input.by_ref().take(limit).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Ok(());
        }
        if line.len() == MAX_LINE_BYTES {
            anyhow::bail!("a request is longer than {MAX_LINE_BYTES} bytes");
        }
        answer(runtime, &mut kept, &line)?;
    }
}

fn answer(runtime: &Runtime, kept: &mut Kept, line: &[u8]) -> anyhow::Result<()> {
    let request: Request = match serde_json::from_slice(line) {
        Ok(request) => request,
        Err(error) => {
            let message = format!("the request cannot be read: {error}");
            return say(&Answer::Failed(Failed { id: None, message }));
        }
    };
    let id = request.id;
    let outcome = match &request.job {
        Job::Measure(job) => device::measure(runtime, kept, id, job, &mut |samples| {
            say(&Answer::Samples(samples))
        })
        .map(Answer::Measured),
        Job::Memory(job) => device::memory(runtime, id, job).map(Answer::Memory),
        Job::Optimize(job) => device::optimize(runtime, id, job).map(Answer::Optimized),
        Job::Bandwidth(job) => {
            device::bandwidth(&runtime.processors, id, job).map(Answer::Bandwidth)
        }
        Job::Generate(job) => device::generate(runtime, id, job).map(Answer::Generated),
        Job::RoundTrip(session) => Ok(Answer::RoundTrip(device::round_trip(
            &runtime.processors,
            id,
            session,
        ))),
        Job::Inspect => device::inspect(runtime, id).map(Answer::Inspected),
    };
    say(&outcome.unwrap_or_else(|error| {
        Answer::Failed(Failed {
            id: Some(id),
            message: format!("{error:#}"),
        })
    }))
}

fn say(answer: &Answer) -> anyhow::Result<()> {
    let mut output = std::io::stdout().lock();
    serde_json::to_writer(&mut output, answer)?;
    output.write_all(b"\n")?;
    output.flush()?;
    Ok(())
}
