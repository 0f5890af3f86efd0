//! A gate between the service and its database, which a test closes as if the database were gone.

use std::net::SocketAddr;
use std::sync::Arc;

use sqlx::postgres::PgConnectOptions;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::Mutex;
use tokio::task::{AbortHandle, JoinSet};

/// Forwards connections while it is open; closing it ends those there are and refuses new ones.
pub struct Proxy {
    target: PgConnectOptions,
    address: SocketAddr,
    running: Arc<Mutex<Option<AbortHandle>>>,
}

impl Proxy {
    /// Listens on a free port and forwards to `target`.
    pub async fn start(target: PgConnectOptions) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let proxy = Self { target, address, running: Arc::default() };
        proxy.run(listener).await;
        proxy
    }

    /// How to reach the database through this gate.
    pub fn options(&self) -> PgConnectOptions {
        self.target.clone().host("127.0.0.1").port(self.address.port())
    }

    /// Closes the gate.
    pub async fn close(&self) {
        if let Some(running) = self.running.lock().await.take() {
            running.abort();
        }
    }

    /// Opens it again, on the same port.
    pub async fn open(&self) {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("an option");
        socket.bind(self.address).expect("the port is free again");
        self.run(socket.listen(64).expect("it listens")).await;
    }

    async fn run(&self, listener: TcpListener) {
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
}

async fn forward(mut client: TcpStream, target: PgConnectOptions) {
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
