//! A TCP connection of a text protocol: lines and counted bytes.

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Read at once at most, bytes.
const READ: usize = 1 << 20;

/// See the module.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    input: BytesMut,
}

impl Wire {
    /// Connects.
    pub async fn connect(addr: &str) -> Result<Self, String> {
        let connected = TcpStream::connect(addr).await;
        let stream = connected.map_err(|error| format!("{addr}: {error}"))?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        Ok(Self { stream, input: BytesMut::new() })
    }

    /// Sends all of it.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.stream.write_all(bytes).await.map_err(|error| error.to_string())
    }

    /// The next line, without its end.
    pub async fn line(&mut self) -> Result<String, String> {
        let mut seen = 0;
        loop {
            if let Some(at) = self.input[seen..].windows(2).position(|two| two == b"\r\n") {
                let line = self.input.split_to(seen + at + 2);
                return Ok(String::from_utf8_lossy(&line[..line.len() - 2]).into_owned());
            }
            seen = self.input.len().saturating_sub(1);
            self.more().await?;
        }
    }

    /// So many bytes and the end of a line behind them.
    pub async fn body(&mut self, len: usize) -> Result<Bytes, String> {
        while self.input.len() < len + 2 {
            self.more().await?;
        }
        let mut body = self.input.split_to(len + 2);
        body.truncate(len);
        Ok(body.freeze())
    }

    async fn more(&mut self) -> Result<(), String> {
        self.input.reserve(READ);
        match self.stream.read_buf(&mut self.input).await {
            Ok(0) => Err("the server closed the connection".to_owned()),
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }
}
