//! Which server a command talks to, and how its errors are told.

use std::future::Future;
use std::io::ErrorKind;
use std::time::Duration;

use clap::Args;

use super::when::duration_ms;
use crate::client::{Client, ClientError, ClientOptions};

/// Options of every command that talks to a server.
#[derive(Args, Clone, Debug)]
pub struct Remote {
    /// Server's native address
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7700")]
    #[arg(env = "CHRONOS_ADDR", hide_env_values = true, help_heading = "Server")]
    pub addr: String,

    /// Time for the answer to a request
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = lasting)]
    #[arg(help_heading = "Server")]
    pub timeout: Duration,
}

fn lasting(text: &str) -> Result<Duration, String> {
    match u64::try_from(duration_ms(text)?) {
        Ok(ms) if ms > 0 => Ok(Duration::from_millis(ms)),
        _ => Err("it must be longer than nothing".to_owned()),
    }
}

impl Remote {
    /// Connects.
    pub async fn connect(&self) -> Result<Client, String> {
        let options = ClientOptions { request_timeout: self.timeout, ..ClientOptions::default() };
        Client::connect_with(&self.addr, options).await.map_err(|error| explain(&error))
    }
}

/// Runs a command's future to its end, on this thread.
pub fn block_on<T>(command: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| format!("no async runtime: {error}"))?.block_on(command)
}

/// An error in words that say what to do.
#[must_use]
pub fn explain(error: &ClientError) -> String {
    let name = "name one with --addr HOST:PORT";
    match error {
        ClientError::Connect { addr, cause } if cause.kind() == ErrorKind::ConnectionRefused => {
            format!("no server listens on {addr}; start one with `chronosdb serve`, or {name}")
        }
        ClientError::Connect { addr, cause } => {
            format!("can't connect to {addr}: {cause}; {name}")
        }
        ClientError::Handshake { addr, reason } => format!(
            "{addr} does not speak the native protocol ({reason}); \
             it is on port 7700 by default, gRPC and HTTP are on others"
        ),
        ClientError::Unknown(why) => format!(
            "{why}; whether it took effect is not known. \
             Publishing again with the same --id is safe"
        ),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_server_says_how_to_start_one() {
        // Bound and closed again: nobody listens there.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let addr = listener.local_addr().expect("it is bound").to_string();
        drop(listener);
        let remote = Remote { addr, timeout: Duration::from_secs(1) };
        let error = block_on(remote.connect()).expect_err("nobody is there");
        assert!(error.contains("chronosdb serve") && error.contains("--addr"), "{error}");
    }

    #[test]
    fn timeouts_are_written_like_durations() {
        assert_eq!(lasting("1m30s"), Ok(Duration::from_secs(90)));
        assert!(lasting("0s").is_err() && lasting("10").is_err());
    }
}
