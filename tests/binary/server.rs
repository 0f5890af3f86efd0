//! The real binary as a child process: started, asked whether it is ready, and killed without warning.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use reqwest::{Client, Method, Response};
use serde_json::Value;

/// The admin token of every test server.
pub const TOKEN: &str = "gl_a_0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// What a server needs to start, the same before and after a kill.
pub struct Place<'a> {
    /// Its database.
    pub database_url: &'a str,
    /// Its data folder.
    pub home: &'a Path,
    /// The folder that it may import.
    pub import_root: &'a Path,
    /// Its port on 127.0.0.1.
    pub port: u16,
}

/// A running server.
pub struct Server {
    child: Child,
}

/// A client as every test uses it; gleaner's own TLS provider serves it too.
fn new_client(timeout: Duration) -> Client {
    // Fails only when another test was first, which serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder().timeout(timeout).build().expect("a client")
}

/// A port that nobody listens on now.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}

impl Server {
    /// Starts the binary and waits until it is ready.
    pub async fn start(place: &Place<'_>) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_gleaner"))
            .arg("serve")
            .env("DATABASE_URL", place.database_url)
            .env("GLEANER_HOME", place.home)
            .env("GLEANER_IMPORT_ROOTS", place.import_root)
            .env("GLEANER_LISTEN", format!("127.0.0.1:{}", place.port))
            .env("GLEANER_ADMIN_TOKEN", TOKEN)
            // Receivers of webhooks stand beside the server here.
            .env("GLEANER_OUTBOUND_ALLOW_PRIVATE", "true")
            .env("GLEANER_THREADS", "2")
            .env("GLEANER_LOG", "warn")
            .stdout(Stdio::null())
            .spawn()
            .expect("the binary starts");
        let mut server = Self { child };
        let client = new_client(Duration::from_secs(5));
        let address = format!("http://127.0.0.1:{}/readyz", place.port);
        for _ in 0..600 {
            if let Some(status) = server.child.try_wait().expect("the child's state") {
                panic!("the server ended at its start with {status}");
            }
            if client.get(&address).send().await.is_ok_and(|answer| answer.status().is_success()) {
                return server;
            }
            // A server that isn't up yet tells nobody anything.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the server isn't ready after 30 seconds");
    }

    /// Ends the server with SIGKILL: no handler runs, nothing is flushed.
    pub fn kill(self) {
        drop(self);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails only when it has ended already.
        let _ = self.child.kill();
        self.child.wait().expect("the killed server is reaped");
    }
}

/// A client of the server at one port, which sends again what a killed server didn't answer.
#[derive(Clone)]
pub struct Caller {
    client: Client,
    base: String,
}

impl Caller {
    /// A client of the server on `port`.
    pub fn new(port: u16) -> Self {
        let client = new_client(Duration::from_secs(30));
        Self { client, base: format!("http://127.0.0.1:{port}/api/v1") }
    }

    /// Sends one request until somebody answers; a POST carries the same idempotency key each time.
    pub async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Response {
        let key = uuid::Uuid::now_v7().to_string();
        loop {
            let mut request =
                self.client.request(method.clone(), format!("{}{path}", self.base)).bearer_auth(TOKEN);
            if method == Method::POST {
                request = request.header("Idempotency-Key", &key);
            }
            if let Some(body) = body {
                request = request.json(body);
            }
            match request.send().await {
                Ok(answer) if answer.status().as_u16() != 503 => return answer,
                // Killed, not up again yet, or without its database: only asking again tells.
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// What `/metrics` says.
    pub async fn metrics(&self) -> String {
        let address = self.base.replace("/api/v1", "/metrics");
        let answer = self.client.get(address).bearer_auth(TOKEN).send().await.expect("the server answers");
        answer.error_for_status().expect("the token is an admin's").text().await.expect("the text is whole")
    }

    /// Sends a request, expects success and reads its JSON; asks again when the server dies within the answer.
    pub async fn json(&self, method: Method, path: &str, body: Option<&Value>) -> Value {
        loop {
            let answer = self.call(method.clone(), path, body).await;
            let status = answer.status();
            let Ok(text) = answer.text().await else {
                continue;
            };
            assert!(status.is_success(), "{method} {path}: {status} {text}");
            return serde_json::from_str(&text).unwrap_or(Value::Null);
        }
    }
}
