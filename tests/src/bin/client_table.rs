//! `client-table [NAME …]`: reads through a gateway with every client, or those named, and prints README's table.
//!
//! `tests/run --clients` installs what it needs. A client that fails is said on standard error, has a line that says so,
//! and makes the exit code 1.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use forebay_tests::clients::Client;
use forebay_tests::clients::table::{EVERYDAY, OTHERS};

const MIB: f64 = 1_048_576.0;

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let all = EVERYDAY.into_iter().chain(OTHERS);
    let clients: Vec<&Client> = all
        .filter(|client| wanted.is_empty() || wanted.iter().any(|name| name == client.name))
        .collect();
    if clients.is_empty() {
        eprintln!("no client of that name; the names are those in README's table");
        return ExitCode::from(2);
    }
    println!("| client | version | reads by | cold | hot |");
    println!("|---|---|---|---|---|");
    let mut failed = false;
    for client in clients {
        // One that fails has said why by its panic; the others go on.
        if let Ok(row) = catch_unwind(AssertUnwindSafe(|| client.run())) {
            let [cold, hot] = row.costs.map(|cost| {
                let [sent, origin] = [cost.sent, cost.origin].map(|bytes| bytes / MIB);
                format!("{sent:.0} MiB, origin {origin:.0}")
            });
            println!(
                "| {} | {} | {} | {cold} | {hot} |",
                row.name, row.version, row.ways
            );
        } else {
            failed = true;
            println!("| {} | | | **failed** | |", client.name);
        }
    }
    ExitCode::from(u8::from(failed))
}
