//! A gate between the service and its database, which a test closes as if the database were gone.

use std::path::PathBuf;
use std::sync::Arc;

use sqlx::postgres::PgConnectOptions;
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::sync::Mutex;
use tokio::task::{AbortHandle, JoinSet};

/// Forwards connections while it is open; closing it ends those there are and refuses new ones.
///
/// It listens on a socket in a folder of its own, since options that name a socket ignore host and port.
pub struct Proxy {
    target: PgConnectOptions,
    folder: TempDir,
    running: Arc<Mutex<Option<AbortHandle>>>,
}

impl Proxy {
    /// Listens and forwards to `target`.
    pub async fn start(target: PgConnectOptions) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the socket");
        let proxy = Self { target, folder, running: Arc::default() };
        proxy.open().await;
        proxy
    }

    /// How to reach the database through this gate.
    pub fn options(&self) -> PgConnectOptions {
        self.target.clone().socket(self.folder.path())
    }

    /// Closes the gate.
    pub async fn close(&self) {
        if let Some(running) = self.running.lock().await.take() {
            running.abort();
        }
        std::fs::remove_file(self.socket()).expect("the socket is there");
    }

    /// Opens it, again or for the first time.
    pub async fn open(&self) {
        let listener = UnixListener::bind(self.socket()).expect("the socket's name is free");
        let target = self.target.clone();
        let task = tokio::spawn(async move {
            // Dropped with this task, and then every connection ends.
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(forward(client, target.clone()));
            }
        });
        *self.running.lock().await = Some(task.abort_handle());
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join(format!(".s.PGSQL.{}", self.target.get_port()))
    }
}

async fn forward(mut client: UnixStream, target: PgConnectOptions) {
    let port = target.get_port();
    // Either side may end the connection at any time; that is what the test is about.
    let _ = match target.get_socket() {
        Some(folder) => match UnixStream::connect(folder.join(format!(".s.PGSQL.{port}"))).await {
            Ok(mut server) => copy_bidirectional(&mut client, &mut server).await,
            Err(error) => Err(error),
        },
        None => match TcpStream::connect((target.get_host(), port)).await {
            Ok(mut server) => copy_bidirectional(&mut client, &mut server).await,
            Err(error) => Err(error),
        },
    };
}
