//! Builds a gateway of its settings, starts it, and stops it in order.

mod fleet;
pub mod flows;
mod state;

use std::fs::File;
use std::io::{self, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use forebay_storage::block::BlockSize;
use forebay_storage::nvme::{self, Nvme};
use forebay_storage::origin::{self, OriginUrl};
use forebay_storage::store::{Copies, Store};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};

use self::fleet::{Place, Prepared};
use self::state::probe;
pub use self::state::{open_state, try_state};
use crate::access::Access;
use crate::cli::ServeArgs;
use crate::control::pins;
use crate::dataset::Datasets;
use crate::demo;
use crate::gateway::{Gateway, Parts};
use crate::known::{self, KnownFile};
use crate::notify::Notify;
use crate::purge;
use crate::reload::{self, Reload};
use crate::serve::{self, crowd::Crowd, tls::Tls, unsent::Room};
use crate::settings::{DatasetSettings, Settings, machine};
use crate::telemetry;

/// Exit code for usage and settings.
pub const USAGE: u8 = 2;

/// `forebay serve`, to its end.
pub async fn run(args: &ServeArgs) -> ExitCode {
    machine::raise_open_files();
    // Blocks, journal and known versions are for nobody else to read, whoever makes the files.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    let flags = args.flags();
    let content = args
        .config
        .as_ref()
        .and_then(|path| std::fs::read(path).ok());
    let mut settings = match Settings::load(args.config.as_deref(), &flags) {
        Ok(settings) => settings,
        Err(mistakes) => {
            eprintln!("{mistakes}");
            return ExitCode::from(USAGE);
        }
    };
    telemetry::begin(&settings.log);
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
    let served = async {
        let _lock = lock(&settings.data_dir)?;
        if settings.demo {
            settings.datasets.push(make_demo(&settings.data_dir).await?);
        }
        let listener = listen(&settings).await?;
        let client = listener.local_addr().context("ask for our own address")?;
        let name = settings
            .fleet
            .as_ref()
            .and_then(|fleet| fleet.member.clone());
        let name = name.unwrap_or_else(host_name);
        let prepared = match &settings.fleet {
            Some(fleet) => Some(fleet::prepare(&settings, fleet, &name, client).await?),
            None => None,
        };
        let gateway = match build(&settings, &name, prepared.as_ref())? {
            Ok(gateway) => gateway,
            Err(mistakes) => {
                for mistake in mistakes {
                    eprintln!("{mistake}");
                }
                return Ok(ExitCode::from(USAGE));
            }
        };
        let reload = args.config.clone().map(|config| Reload {
            config,
            flags,
            content,
            settings: settings.clone(),
            listens: client,
        });
        if let Some(documents) = gateway.state.documents() {
            probe(documents).await?;
        }
        serve_until_told(&settings, gateway, listener, prepared, reload).await?;
        Ok::<_, anyhow::Error>(ExitCode::SUCCESS)
    };
    served.await.unwrap_or_else(|error| {
        eprintln!("forebay: {error:#}");
        ExitCode::FAILURE
    })
}

/// Takes the data directory for this process. The lock ends with the file.
fn lock(data_dir: &Path) -> Result<File> {
    let hint = "give another one with --data-dir or data_dir";
    std::fs::create_dir_all(data_dir)
        .with_context(|| format!("create the data directory {}; {hint}", data_dir.display()))?;
    let path = data_dir.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("open {}; {hint}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => bail!(
            "another process uses the data directory {}; stop it, or {hint}",
            data_dir.display()
        ),
        Err(std::fs::TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("lock {}; {hint}", path.display()))
        }
    }
}

async fn make_demo(data_dir: &Path) -> Result<DatasetSettings> {
    let data_dir = data_dir.to_owned();
    let made = tokio::task::spawn_blocking(move || demo::make(&data_dir)).await?;
    let path = made.context("make the demo's files below the data directory")?;
    Ok(DatasetSettings::with_defaults(
        "demo",
        OriginUrl::Directory { path },
    ))
}

/// The gateway of these settings, or what is wrong with its datasets.
fn build(
    settings: &Settings,
    name: &str,
    prepared: Option<&Prepared>,
) -> Result<Result<Arc<Gateway>, Vec<String>>> {
    let block_size = BlockSize::new(settings.cache.block_size);
    let transport = origin::transport().context("prepare connections to origins")?;
    let documents = match open_state(settings, transport.clone()) {
        Ok(documents) => documents.map(Arc::new),
        Err(mistake) => return Ok(Err(vec![mistake])),
    };
    let datasets = match Datasets::new(&settings.datasets, block_size, transport) {
        Ok(datasets) => Arc::new(datasets),
        Err(mistakes) => return Ok(Err(mistakes)),
    };
    let mut mistakes = served_by_us(&datasets, settings.listen);
    mistakes.extend(flows::judge(settings, &datasets));
    if !mistakes.is_empty() {
        return Ok(Err(mistakes));
    }
    let nvme = open_nvme(settings, block_size)?;
    let gateway = Gateway::new(Parts {
        store: store(settings, block_size, nvme),
        datasets,
        access: Access::new(
            &settings.access,
            settings.domain.as_deref(),
            &settings.hosts,
        ),
        name: name.into(),
        max_requests: settings.limits.max_requests,
        log_access: settings.log.access,
        seed: seed(),
        fleet: prepared.map(Prepared::parts),
    });
    let gateway = gateway.map_err(|error| anyhow!(error))?;
    if let Some(documents) = documents {
        gateway.state.share(documents);
    }
    telemetry::tell_panics(gateway.metrics.panics.clone());
    Ok(Ok(gateway))
}

fn store(settings: &Settings, block_size: BlockSize, nvme: Option<Arc<Nvme>>) -> Arc<Store> {
    let memory = settings.cache.memory;
    // For whoever measures the way between gateways: with copies it is gone only once.
    let dropped = fleet::for_tests("FOREBAY_COPIES").is_some_and(|word| word == "off");
    match &settings.fleet {
        Some(_) if dropped => Store::in_fleet(memory, block_size, nvme, Copies::Dropped),
        Some(fleet) if !fleet.edge => Store::in_fleet(memory, block_size, nvme, Copies::Apart),
        // An edge owns nothing, so nobody asks it, and nothing need be set apart for others.
        _ => Store::new(memory, block_size, nvme),
    }
}

fn open_nvme(settings: &Settings, block_size: BlockSize) -> Result<Option<Arc<Nvme>>> {
    let Some(nvme) = &settings.cache.nvme else {
        Nvme::forget(&settings.data_dir).context("forget what was on NVMe")?;
        return Ok(None);
    };
    let config = nvme::Config {
        dir: nvme.dir.clone(),
        data_dir: settings.data_dir.clone(),
        bytes: nvme.bytes,
    };
    let nvme = Nvme::new(&config, block_size)
        .with_context(|| format!("prepare the NVMe tier in {}", nvme.dir.display()))?;
    Ok(Some(nvme))
}

/// An origin that is this gateway would ask itself for ever. What is not seen here, behind a
/// balancer or a port that was not known yet, is found out by the first request that comes back.
pub fn served_by_us(datasets: &Datasets, listen: SocketAddr) -> Vec<String> {
    let local = |address: SocketAddr| {
        address.ip() == listen.ip()
            || (listen.ip().is_unspecified()
                && std::net::UdpSocket::bind((address.ip(), 0)).is_ok())
    };
    let ours = |endpoint: &str| {
        let addresses = endpoint.to_socket_addrs();
        addresses.is_ok_and(|mut addresses| {
            addresses.any(|address| address.port() == listen.port() && local(address))
        })
    };
    let datasets = datasets.all();
    let looped = datasets
        .iter()
        .filter(|dataset| dataset.origin.endpoint().is_some_and(ours));
    looped
        .map(|dataset| {
            format!(
                "dataset {}: its origin is this gateway itself ({listen}); name the object store",
                dataset.name
            )
        })
        .collect()
}

fn host_name() -> String {
    let name = rustix::system::uname();
    let name = name.nodename().to_string_lossy().into_owned();
    if name.is_empty() {
        "forebay".to_owned()
    } else {
        name
    }
}

/// Different at each start, so that request ids of two runs do not meet.
fn seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish()
}

/// Takes the port that clients reach.
async fn listen(settings: &Settings) -> Result<TcpListener> {
    let hint = "is another gateway running? give another address with --listen";
    serve::bind(settings.listen)
        .await
        .with_context(|| format!("listen on {}; {hint}", settings.listen))
}

async fn serve_until_told(
    settings: &Settings,
    gateway: Arc<Gateway>,
    listener: TcpListener,
    prepared: Option<Prepared>,
    reload: Option<Reload>,
) -> Result<()> {
    let address = listener.local_addr().context("ask for our own address")?;
    gateway
        .state
        .set_client_url(format!("{}://{address}", settings.scheme()));
    let admin = match settings.admin_listen {
        Some(admin) => Some(
            serve::bind(admin)
                .await
                .with_context(|| format!("listen on {admin} (admin_listen)"))?,
        ),
        None => None,
    };
    let mut terminate = signal(SignalKind::terminate()).context("await SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("await SIGINT")?;
    let hangup = reload::catch().context("await SIGHUP")?;
    let (tls, renewing) = open_tls(settings, &gateway)?.unzip();
    let file = remember(settings, &gateway);
    flows::set_up(settings, &gateway)?;
    let house = keep_house(&gateway);
    let (stop, stopped) = watch::channel(false);
    let listeners =
        std::iter::once((listener, admin.is_none())).chain(admin.map(|listener| (listener, true)));
    let crowd = Crowd::behind(Arc::clone(&gateway.state.link));
    let mut servers = start_serving(
        settings,
        &gateway,
        listeners,
        tls.as_ref(),
        crowd.clone(),
        &stopped,
    );
    let place =
        prepared.map(|prepared| prepared.start(settings, &gateway, &mut servers, crowd, &stopped));
    let watched = Arc::clone(&gateway);
    let reloading = reload.map(|reload| tokio::spawn(reload::watch(watched, reload, hangup)));
    let (all_served, served) = oneshot::channel();
    let keeping = tokio::spawn(known::keep(Arc::clone(&gateway), file, served));
    let mut told = async || {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    };
    let stopping = run_until(settings, &gateway, address, place.as_ref(), told()).await;
    gateway.state.set_ready(false);
    gateway.state.close();
    if let Some(place) = &place {
        if stopping.is_ok() {
            place.hand_over(&gateway, told()).await;
        }
        place.leave().await;
    }
    stop.send_replace(true);
    for task in reloading.into_iter().chain(renewing) {
        task.abort();
    }
    house.iter().for_each(JoinHandle::abort);
    gateway.state.release().await;
    while servers.join_next().await.is_some() {}
    drop(place);
    // The keeper may be gone only if it panicked, and then there is nothing to wait for.
    let _ = all_served.send(());
    let _ = keeping.await;
    tracing::info!("stopped");
    stopping
}

/// Has what survived the last run known before anybody can ask, and says where it is kept.
fn remember(settings: &Settings, gateway: &Arc<Gateway>) -> Arc<KnownFile> {
    let file = Arc::new(KnownFile::new(&settings.data_dir));
    gateway.state.purges.remember_in(Arc::clone(&file));
    gateway.state.purges.log_in(&settings.data_dir);
    file.load(gateway);
    known::recall(gateway);
    if gateway.state.documents().is_none() {
        gateway.state.jobs.keep_in(&settings.data_dir);
    }
    gateway.state.pins.keep_in(&settings.data_dir);
    gateway.state.copier.keep_in(&settings.data_dir);
    gateway.state.revisions.keep_in(&settings.data_dir);
    gateway.state.bound();
    file
}

/// The work that tiers, pins, the log of purges and the fleet's changes need for as long as the gateway runs.
fn keep_house(gateway: &Gateway) -> [JoinHandle<()>; 7] {
    let (store, state) = (&gateway.reads.store, &gateway.state);
    [
        tokio::spawn(Arc::clone(store).keep_nvme()),
        tokio::spawn(Arc::clone(&state.pins).keep()),
        tokio::spawn(pins::keep(Arc::clone(state))),
        tokio::spawn(Arc::clone(&state.handover).keep()),
        tokio::spawn(Arc::clone(&state.link).watch()),
        tokio::spawn(Arc::clone(&state.revisions).keep()),
        tokio::spawn(purge::told::keep(Arc::clone(&state.purges))),
    ]
}

/// Wants traffic once the fleet is found, and until `told` to stop, or until this gateway has no place in
/// its fleet any more.
///
/// # Errors
/// The sentence that says so.
async fn run_until(
    settings: &Settings,
    gateway: &Gateway,
    address: SocketAddr,
    place: Option<&Place>,
    told: impl Future<Output = &'static str>,
) -> Result<()> {
    let mut told = std::pin::pin!(told);
    let ready = async {
        if let Some(place) = place {
            place.joined().await;
        }
        purge::told::catch_up(&gateway.state.purges).await;
        gateway.state.revisions.begin().await;
    };
    let lost = async {
        match place {
            Some(place) => place.lost().await,
            None => std::future::pending().await,
        }
    };
    let mut lost = std::pin::pin!(lost);
    let waited = tokio::select! {
        biased;
        signal = &mut told => Err(signal),
        () = ready => Ok(()),
    };
    if let Err(signal) = waited {
        tracing::info!("{signal}: stopping");
        return Ok(());
    }
    gateway.state.set_ready(true);
    gateway.state.begin().await;
    announce(address, settings).context("write to standard output")?;
    let notify = Notify::from_environment();
    notify.ready();
    tracing::info!(
        %address,
        memory = settings.cache.memory,
        datasets = settings.datasets.len(),
        "serving"
    );
    let stopping = tokio::select! {
        signal = &mut told => {
            tracing::info!("{signal}: stopping");
            Ok(())
        }
        ended = &mut lost => Err(ended.into()),
    };
    notify.stopping();
    stopping
}

/// TLS, if it is set, and the task that reads its files again.
fn open_tls(settings: &Settings, gateway: &Gateway) -> Result<Option<(Arc<Tls>, JoinHandle<()>)>> {
    let Some(files) = &settings.tls else {
        return Ok(None);
    };
    let tls = Tls::new(files, Arc::clone(&gateway.metrics)).context("[tls]")?;
    let hangup = reload::catch().context("await SIGHUP")?;
    let renewing = tokio::spawn(Arc::clone(&tls).watch(hangup));
    Ok(Some((tls, renewing)))
}

/// Serves every listener, with all of `/-/` where its second half says so.
fn start_serving(
    settings: &Settings,
    gateway: &Arc<Gateway>,
    listeners: impl Iterator<Item = (TcpListener, bool)>,
    tls: Option<&Arc<Tls>>,
    crowd: Crowd,
    stopped: &watch::Receiver<bool>,
) -> JoinSet<()> {
    let mut servers = JoinSet::new();
    let room = Room::beside(settings.cache.memory, crowd);
    for (listener, controls) in listeners {
        let side = serve::Side {
            limits: settings.limits.clone(),
            controls,
            tls: tls.cloned(),
            room: room.clone(),
        };
        let gateway = Arc::clone(gateway);
        let stop_after = settings.stop_after;
        servers.spawn(serve::serve(
            listener,
            gateway,
            side,
            stopped.clone(),
            stop_after,
        ));
    }
    servers
}

/// The one thing that standard output carries.
fn announce(address: SocketAddr, settings: &Settings) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let base = format!("{}://{address}", settings.scheme());
    writeln!(out, "listening on {base}")?;
    if settings.demo {
        let shard = demo::shard_name(0);
        let header =
            "-o /dev/null -w '%{http_code} %{size_download} bytes %{speed_download} B/s\\n'";
        writeln!(out, "curl -s -r 0-7 {base}/demo/{shard} | od -A n -t u8")?;
        writeln!(out, "curl -s {header} {base}/demo/{shard}")?;
        writeln!(out, "curl -s '{base}/demo?list-type=2'")?;
        writeln!(out, "curl -s {base}/-/datasets")?;
    }
    out.flush()
}
