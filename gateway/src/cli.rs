//! The command line: what may be typed, and its help. Running what was asked is not done here.

mod copy;
mod flow;
mod revision;
mod warm;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

pub use self::copy::CopyArgs;
pub use self::flow::{FlowArgs, FlowVerb, OneArgs, RunArgs};
pub use self::revision::{RevisionArgs, RevisionVerb};
pub use self::warm::{PinArgs, Prefix, WaitArgs, WarmArgs};

use crate::settings::Flags;

/// Where client commands look for a gateway that neither `--gateway` nor the environment names.
const DEFAULT_GATEWAY: &str = "http://127.0.0.1:7070";

const ABOUT: &str = "\
Forebay keeps model weights in memory next to the machines that load them: an HTTP
cache in front of object storage. Any HTTP or S3 client reads through it, and the
object store is asked for each byte once.";

const EXAMPLES: &str = "\
Examples:
  Try it: make a small demo dataset, serve it on this machine, and print curl lines to paste.
      forebay serve

  Serve your bucket under the name `models`; credentials come from the environment.
      forebay serve models=s3://my-bucket/prefix
      curl -O http://127.0.0.1:7070/models/model.safetensors

  Warm a model before anybody loads it; ends once it is all there, and not with 0 if it is not.
      forebay warm models/llama/

  Publish a model in one go: scale the cache up, warm it, start instances, check, scale down.
      forebay flow run release.toml

  Judge a settings file: every mistake with its line, and whether each origin answers.
      forebay check --config forebay.toml
      forebay serve --config forebay.toml

README.md, beside the source, documents the settings file, the HTTP interface and the metrics.";

/// What was asked of `forebay`.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Serve datasets over HTTP
    Serve(ServeArgs),
    /// Judge the settings, reach every origin and say where the memory goes; opens no port
    Check(CheckArgs),
    /// Show how a running gateway is doing
    Status(ClientArgs),
    /// List the datasets of a running gateway, and how much of each is cached
    Datasets(ClientArgs),
    /// Show who is in a running gateway's fleet, and how they do
    Ring(ClientArgs),
    /// Show which member owns which bytes of an object, and where to read them
    Plan(PlanArgs),
    /// Take a running gateway out of its fleet: it wants no traffic any more, owns nothing, and hands its blocks over
    Drain(ClientArgs),
    /// Bring everything below a prefix into the cache, show how it goes, and end when it is there
    Warm(WarmArgs),
    /// Wait until everything below a prefix is in the cache; brings nothing itself
    Wait(WaitArgs),
    /// Run steps as one submission: warm, wait, run programs, scale, pin, purge
    Flow(FlowArgs),
    /// Keep everything below a prefix in the cache once it is there, whatever comes
    Pin(PinArgs),
    /// Print what is hottest in a running gateway's fleet, to be warmed from after all of it was lost
    ExportHot(ClientArgs),
    /// Copy everything below a prefix into another dataset, verified; what is there already is passed over
    Copy(CopyArgs),
    /// Show, switch or take off the revision of a dataset: exactly these versions of these keys
    Revision(RevisionArgs),
    /// Drop an object, or all below a prefix, from a running gateway's cache
    Purge(PurgeArgs),
}

/// Arguments of `forebay serve`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
#[command(
    after_help = "With neither FILE nor NAME=ORIGIN it makes the dataset `demo` and serves it."
)]
pub struct ServeArgs {
    /// Settings file (TOML); flags win over it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address and port to listen on [default: 127.0.0.1:7070]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,
    /// Directory for what survives a restart [default: /var/lib/forebay for root, else
    /// $XDG_STATE_HOME/forebay or ~/.local/state/forebay]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Memory for blocks, such as 8GiB [default: a quarter of what there is, 64MiB to 8GiB]
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// Disk space for blocks, such as 200GiB [default: 0, memory only]
    #[arg(long, value_name = "SIZE")]
    pub nvme: Option<String>,
    /// Datasets: a name, and s3://BUCKET/PREFIX, oss://…, gs://…, az://CONTAINER/PREFIX,
    /// http(s)://HOST/PATH/, file:///DIR or a directory
    #[arg(value_name = "NAME=ORIGIN")]
    pub datasets: Vec<String>,
}

impl ServeArgs {
    /// The part of them that is settings.
    pub fn flags(&self) -> Flags {
        Flags {
            listen: self.listen.clone(),
            data_dir: self.data_dir.clone(),
            memory: self.memory.clone(),
            nvme: self.nvme.clone(),
            datasets: self.datasets.clone(),
        }
    }
}

/// Arguments of `forebay check`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct CheckArgs {
    /// Settings file to judge; without one, the defaults are
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Arguments of every command that asks a running gateway.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct ClientArgs {
    /// The gateway to ask, without a slash at its end once parsed
    #[arg(
        long,
        value_name = "URL",
        env = "FOREBAY_URL",
        hide_env_values = true,
        default_value = DEFAULT_GATEWAY,
        value_parser = gateway_url,
        help = "The gateway to ask"
    )]
    pub gateway: String,
    /// Whose certificate an https gateway must have, as a PEM file [default: what the system trusts]
    #[arg(long, value_name = "FILE", env = "FOREBAY_CA", hide_env_values = true)]
    pub ca: Option<PathBuf>,
    /// Certificate to show a gateway that asks for one, as a PEM file
    #[arg(
        long,
        value_name = "FILE",
        env = "FOREBAY_CERT",
        hide_env_values = true,
        requires = "key"
    )]
    pub cert: Option<PathBuf>,
    /// Key of that certificate, as a PEM file
    #[arg(
        long,
        value_name = "FILE",
        env = "FOREBAY_KEY",
        hide_env_values = true,
        requires = "cert"
    )]
    pub key: Option<PathBuf>,
    /// Print the gateway's own answer, as JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `forebay purge`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct PurgeArgs {
    /// Which gateway, and in which form it answers.
    #[command(flatten)]
    pub client: ClientArgs,
    /// From where: memory or nvme [default: both]
    #[arg(long, value_parser = ["memory", "nvme"])]
    pub tier: Option<String>,
    /// Only the version of this ETag, or `old`: all but the one that the origin has now [default: all]
    #[arg(long, value_name = "ETAG")]
    pub version: Option<String>,
    /// One object, or everything below a prefix that ends in a slash
    #[arg(value_name = "DATASET/KEY or DATASET/PREFIX/", value_parser = purge_target)]
    pub target: PurgeTarget,
}

/// Arguments of `forebay plan`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct PlanArgs {
    /// Which gateway, and in which form it answers.
    #[command(flatten)]
    pub client: ClientArgs,
    /// The object
    #[arg(value_name = "DATASET/KEY", value_parser = plan_target)]
    pub target: PurgeTarget,
}

/// What to purge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PurgeTarget {
    /// The dataset.
    pub dataset: String,
    /// One key, or if empty or ending in `/` a prefix: as typed, not percent-encoded.
    pub key: String,
}

#[derive(Parser)]
#[command(name = "forebay", version, about = ABOUT)]
#[command(after_help = EXAMPLES)]
#[command(arg_required_else_help = true, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// Reads a command line, of which the first argument is the program's name.
///
/// # Errors
/// What clap has to say: its `print()` shows help or the version, or says what is wrong, and its
/// `exit_code()` is 0 for the first and 2 for the second.
pub fn parse<I, T>(arguments: I) -> Result<Command, clap::Error>
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let mut grammar = Cli::command();
    let matches = grammar.try_get_matches_from_mut(arguments)?;
    Cli::from_arg_matches(&matches)
        .map(|cli| cli.command)
        .map_err(|error| error.format(&mut grammar))
}

fn gateway_url(text: &str) -> Result<String, String> {
    let host = text
        .strip_prefix("http://")
        .or_else(|| text.strip_prefix("https://"))
        .unwrap_or_default();
    let host = host.trim_end_matches('/');
    if host.is_empty() || host.contains(['/', '@', '?', '#']) || host.contains(char::is_whitespace)
    {
        return Err(format!("write http://HOST:PORT, such as {DEFAULT_GATEWAY}"));
    }
    Ok(text.trim_end_matches('/').to_owned())
}

fn plan_target(text: &str) -> Result<PurgeTarget, String> {
    match purge_target(text) {
        Ok(target) if target.key.is_empty() => {
            Err(format!("it names no object: write {}/KEY", target.dataset))
        }
        target => target,
    }
}

fn purge_target(text: &str) -> Result<PurgeTarget, String> {
    match text.split_once('/') {
        Some((dataset, key)) if !dataset.is_empty() => Ok(PurgeTarget {
            dataset: dataset.to_owned(),
            key: key.to_owned(),
        }),
        Some(_) => Err("it begins with a slash: write DATASET/KEY or DATASET/PREFIX/".into()),
        None => Err(format!(
            "it names no object: write {text}/KEY, or {text}/ for the whole dataset"
        )),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn parsed(line: &str) -> Result<Command, clap::Error> {
        parse(std::iter::once("forebay").chain(line.split_whitespace()))
    }

    fn refusal(line: &str) -> (i32, String) {
        let error = parsed(line).unwrap_err();
        (error.exit_code(), error.to_string())
    }

    fn client() -> ClientArgs {
        ClientArgs {
            gateway: DEFAULT_GATEWAY.into(),
            ca: None,
            cert: None,
            key: None,
            json: false,
        }
    }

    #[test]
    fn the_grammar_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn serve_takes_flags_and_datasets_in_any_order() {
        let command = parsed(
            "serve a=s3://x --memory 1GiB --listen 127.0.0.1:0 b=/srv --data-dir /d --nvme 0 \
             --config f",
        );
        let Ok(Command::Serve(serve)) = command else {
            panic!("{command:?}")
        };
        assert_eq!(serve.config, Some("f".into()));
        assert_eq!(
            serve.flags(),
            Flags {
                listen: Some("127.0.0.1:0".into()),
                data_dir: Some("/d".into()),
                memory: Some("1GiB".into()),
                nvme: Some("0".into()),
                datasets: vec!["a=s3://x".into(), "b=/srv".into()],
            }
        );
        assert_eq!(
            parsed("serve").unwrap(),
            Command::Serve(ServeArgs::default())
        );
    }

    #[test]
    fn client_commands_know_their_gateway() {
        assert_eq!(
            parsed("check").unwrap(),
            Command::Check(CheckArgs { config: None })
        );
        assert_eq!(parsed("status").unwrap(), Command::Status(client()));
        let elsewhere = ClientArgs {
            gateway: "http://gw:1".into(),
            json: true,
            ..client()
        };
        assert_eq!(
            parsed("datasets --json --gateway http://gw:1/").unwrap(),
            Command::Datasets(elsewhere)
        );
        for url in [
            "gw:7070",
            "http://",
            "http://gw/path",
            "http://me:pass@gw",
            "ftp://gw",
        ] {
            let (code, text) = refusal(&format!("status --gateway {url}"));
            assert_eq!(code, 2);
            assert!(text.contains("write http://HOST:PORT"), "{text}");
        }
    }

    #[test]
    fn purge_takes_a_key_or_a_prefix_in_a_dataset() {
        for (text, dataset, key) in [
            ("m/a/b", "m", "a/b"),
            ("m/a/", "m", "a/"),
            ("m/", "m", ""),
            ("m//a", "m", "/a"),
        ] {
            let target = PurgeTarget {
                dataset: dataset.into(),
                key: key.into(),
            };
            assert_eq!(
                parsed(&format!("purge {text}")).unwrap(),
                Command::Purge(PurgeArgs {
                    client: client(),
                    tier: None,
                    version: None,
                    target
                })
            );
        }
        assert!(
            refusal("purge models")
                .1
                .contains("models/ for the whole dataset")
        );
        let Ok(Command::Purge(part)) = parsed("purge m/a --tier nvme --version old") else {
            panic!("a purge of a part is one")
        };
        assert_eq!(
            (part.tier.as_deref(), part.version.as_deref()),
            (Some("nvme"), Some("old"))
        );
        assert_eq!(refusal("purge m/a --tier disk").0, 2);
        assert_eq!(refusal("purge /a").0, 2);
        assert_eq!(refusal("purge").0, 2);
    }

    #[test]
    fn flow_takes_a_verb_and_what_it_is_about() {
        let command = parsed("flow run --json release.toml").unwrap();
        let Command::Flow(FlowArgs {
            verb: FlowVerb::Run(run),
        }) = command
        else {
            panic!("{command:?}")
        };
        assert_eq!(run.file, PathBuf::from("release.toml"));
        assert!(run.client.json);
        let verb = FlowVerb::Cancel(OneArgs {
            client: client(),
            id: "a1".into(),
        });
        assert_eq!(
            parsed("flow cancel a1").unwrap(),
            Command::Flow(FlowArgs { verb })
        );
        for line in ["flow", "flow run", "flow frob x", "flow list x"] {
            assert_eq!(refusal(line).0, 2, "{line}");
        }
    }

    #[test]
    fn usage_mistakes_exit_with_2_and_help_with_0() {
        for line in [
            "",
            "frobnicate",
            "serve --frob",
            "status extra",
            "check --config",
        ] {
            assert_eq!(refusal(line).0, 2, "{line}");
        }
        for line in ["--help", "-h", "--version", "serve --help", "purge -h"] {
            assert_eq!(refusal(line).0, 0, "{line}");
        }
        assert_eq!(
            refusal("--version").1,
            format!("forebay {}\n", env!("CARGO_PKG_VERSION"))
        );
    }

    #[test]
    fn help_shows_what_to_type() {
        let help = refusal("--help").1;
        for part in [
            "forebay serve\n",
            "models=s3://my-bucket/prefix",
            "forebay check --config",
            "forebay flow run",
            "README.md",
        ] {
            assert!(help.contains(part), "{part}: {help}");
        }
    }
}
