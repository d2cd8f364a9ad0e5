//! `casemate serve`.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use casemate_server::{Certificate, Config, Tls};
use casemate_wasm::setup::Store;

use crate::cli::{DataArgs, ServeArgs};
use crate::run::{lasting_engine, named_policy};
use crate::{sessions, setup};

/// Serves until Ctrl-C or SIGTERM.
pub(crate) fn command(args: ServeArgs) -> anyhow::Result<i32> {
    let policy = named_policy(&args.policy)?;
    let store = Store::open()?;
    drop(setup::ensure(&store)?);
    let mut config = Config::new(args.listen, data_folder(&args.data)?);
    config.database.clone_from(&args.data.database);
    config.policy = policy;
    config.domain = args.domain;
    let certificate = args.tls_cert.zip(args.tls_key);
    let certificate = certificate.map(|(chain, key)| Certificate { chain, key });
    config.tls = args.tls_listen.map(|listen| Tls {
        listen,
        certificate,
    });
    let authority = config.data.join(casemate_server::tls::AUTHORITY);
    let own_authority = config
        .tls
        .as_ref()
        .is_some_and(|tls| tls.certificate.is_none());
    config.keep = args.keep;
    config.keep_least = args.keep_least;
    config.keep_uploads = args.keep_uploads;
    config.mcp_idle = args.mcp_idle;
    config.rules.stored_bytes = args.quota.0;
    config.rules.waiting = usize::from(args.waiting);
    config.body_bytes = usize::try_from(args.body.0).unwrap_or(usize::MAX);
    if let Some(parallel) = args.parallel {
        config.parallel = usize::from(parallel);
        config.rules.running = config.parallel;
    }
    config.rules.sandboxes = usize::from(args.sandboxes);
    config.ready = usize::from(args.ready);
    config.signer = Some(crate::receipt::signer(&config.data)?);
    let templates = sessions::wanted(&args.sessions, &args.made_of, &store, &config.data)?;
    // Without a folder for results nothing is known.
    config.attacks = crate::attack::for_server(&store).unwrap_or_default();
    let engine = Arc::new(lasting_engine(&store, config.parallel)?);
    runtime()?.block_on(async {
        let stop = stop_signal()?;
        let running = casemate_server::start(config, engine, templates).await?;
        eprintln!(
            "casemate: serving http://{} (console: /, API: /docs)",
            running.address
        );
        if let Some(address) = running.tls {
            eprintln!("casemate: serving https://{address}");
        }
        if own_authority {
            eprintln!(
                "casemate: its authority, for clients to trust: {}",
                authority.display()
            );
        }
        stop.await;
        eprintln!("casemate: shutting down");
        running.shut_down().await.context("serving")
    })?;
    Ok(0)
}

/// A runtime for what is asynchronous.
pub(crate) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    // Half the processors: what a server's time goes into are its sandboxes, and each thread more is one more that is
    // woken to find that another has done the work.
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(processors.div_ceil(2))
        .enable_all()
        .build()
        .context("starting threads")
}

/// Set up before the port is open, so that no signal is lost.
pub(crate) fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt()).context("watching for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("watching for SIGTERM")?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// The folder that was named, or `casemate` in the user's data folder.
pub(crate) fn data_folder(args: &DataArgs) -> anyhow::Result<PathBuf> {
    if let Some(folder) = &args.data_dir {
        return Ok(folder.clone());
    }
    let home = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let data = home("XDG_DATA_HOME")
        .map(PathBuf::from)
        .or_else(|| home("HOME").map(|home| PathBuf::from(home).join(".local/share")));
    let data = data.context("there is no home folder; name one with --data-dir")?;
    Ok(data.join("casemate"))
}
