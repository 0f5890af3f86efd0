//! A gate between a store and its database: a test closes it as if the database were gone, or loses the answer to a commit in it.
//!
//! Built for tests only. While the gate is closed a second store that goes past it still reads and writes, so a test can let time pass in
//! the database instead of waiting for it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::postgres::PgConnectOptions;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::sync::Mutex;
use tokio::task::{JoinHandle, JoinSet};

/// What a client sends to end a transaction.
const COMMIT: &[u8] = b"COMMIT";

/// Forwards connections while it is open; closing it ends those there are and refuses new ones.
///
/// It listens on a socket in a folder of its own, since options that name a socket ignore host and port.
#[derive(Debug)]
pub struct Gate {
    target: PgConnectOptions,
    folder: TempDir,
    running: Mutex<Option<JoinHandle<()>>>,
    loses_commit: Arc<AtomicBool>,
}

impl Gate {
    /// An open gate to `target`.
    pub async fn start(target: PgConnectOptions) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the socket");
        let gate = Self { target, folder, running: Mutex::default(), loses_commit: Arc::default() };
        gate.open().await;
        gate
    }

    /// How to reach the database through this gate.
    #[must_use]
    pub fn options(&self) -> PgConnectOptions {
        self.target.clone().socket(self.folder.path())
    }

    /// Closes the gate: connections are refused, as by a host whose database isn't running.
    pub async fn close(&self) {
        if let Some(running) = self.running.lock().await.take() {
            running.abort();
            // An error is what an aborted task ends with; by then its listener and connections are gone.
            let _ = running.await;
        }
    }

    /// Opens it, again or for the first time.
    pub async fn open(&self) {
        // A socket that nobody listens on stays in the folder, which is what refuses connections meanwhile.
        let _ = std::fs::remove_file(self.socket());
        let listener = UnixListener::bind(self.socket()).expect("the socket's name is free");
        let (target, loses_commit) = (self.target.clone(), Arc::clone(&self.loses_commit));
        let task = tokio::spawn(async move {
            // Dropped with this task, and then every connection ends.
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(forward(client, target.clone(), Arc::clone(&loses_commit)));
            }
        });
        *self.running.lock().await = Some(task);
    }

    /// Lets the next commit reach the database and ends its connection before the answer: the client can't know what became of it.
    pub fn lose_next_commit(&self) {
        self.loses_commit.store(true, Ordering::SeqCst);
    }

    /// Whether a commit is still to be lost.
    #[must_use]
    pub fn is_losing_commit(&self) -> bool {
        self.loses_commit.load(Ordering::SeqCst)
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join(format!(".s.PGSQL.{}", self.target.get_port()))
    }
}

async fn forward(client: UnixStream, target: PgConnectOptions, loses_commit: Arc<AtomicBool>) {
    let port = target.get_port();
    // Either side may end the connection at any time; that is what the test is about.
    let _ = match target.get_socket() {
        Some(folder) => match UnixStream::connect(folder.join(format!(".s.PGSQL.{port}"))).await {
            Ok(server) => relay(client, server, &loses_commit).await,
            Err(error) => Err(error),
        },
        None => match TcpStream::connect((target.get_host(), port)).await {
            Ok(server) => relay(client, server, &loses_commit).await,
            Err(error) => Err(error),
        },
    };
}

async fn relay(
    mut client: UnixStream,
    mut server: impl AsyncRead + AsyncWrite + Unpin,
    loses_commit: &AtomicBool,
) -> io::Result<()> {
    let (mut sent, mut answered) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        tokio::select! {
            count = client.read(&mut sent) => {
                let sent = &sent[..count?];
                server.write_all(sent).await?;
                let is_commit = sent.windows(COMMIT.len()).any(|bytes| bytes == COMMIT);
                if is_commit && loses_commit.swap(false, Ordering::SeqCst) {
                    // The server answers when the commit is durable; the first byte of its answer says so.
                    server.read_u8().await?;
                    return Ok(());
                }
                if sent.is_empty() {
                    return Ok(());
                }
            }
            count = server.read(&mut answered) => {
                let answered = &answered[..count?];
                client.write_all(answered).await?;
                if answered.is_empty() {
                    return Ok(());
                }
            }
        }
    }
}
