//! The binary `forebay`: arguments in, an exit code out.

use std::process::ExitCode;
use std::time::Duration;

use forebay_gateway::cli::{self, Command};
use forebay_gateway::{app, check, client};

/// glibc's allocator maps and unmaps large pieces, and the page faults cost more than all copying.
/// Without huge pages: with them 2 MiB stay resident for what is left of one small buffer.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let command = match cli::parse(std::env::args_os()) {
        Ok(command) => command,
        Err(error) => {
            // Help and versions go to standard output, mistakes to standard error.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(app::USAGE));
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("forebay: no threads to run on: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(async {
        match &command {
            Command::Serve(args) => app::run(args).await,
            Command::Check(args) => check::run(args).await,
            Command::Status(args) => client::status(args).await,
            Command::Datasets(args) => client::datasets(args).await,
            Command::Ring(args) => client::ring(args).await,
            Command::Plan(args) => client::plan(args).await,
            Command::Drain(args) => client::drain(args).await,
            Command::ExportHot(args) => client::export_hot(args).await,
            Command::Flow(args) => client::flow(args).await,
            Command::Pin(args) => client::pin(args).await,
            Command::Purge(args) => client::purge(args).await,
            Command::Revision(args) => client::revision(args).await,
            Command::Copy(args) => client::copy(args).await,
            Command::Warm(args) => client::warm(args).await,
            Command::Wait(args) => client::wait(args).await,
        }
    });
    // A thread that waits for a disk or a mount that does not answer is not waited for.
    runtime.shutdown_timeout(Duration::from_millis(100));
    code
}
