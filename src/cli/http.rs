//! One HTTP request over a plain socket: what commands ask of a server's HTTP listener.
//!
//! Promises: waits a bounded time, reads a bounded answer, and takes it only if it is whole.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

/// Time for the connection, and for each piece of the answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A request.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// `GET` or `PUT`.
    pub method: &'static str,
    /// Of the listener, `HOST:PORT`.
    pub address: &'a str,
    /// From `/` on, encoded.
    pub path: &'a str,
    /// JSON; empty for none.
    pub body: &'a str,
    /// Bytes of the answer at most.
    pub limit: u64,
}

/// Status and body of the answer. An error of kind `InvalidData`: it is no HTTP, not whole, or too
/// large; the others are the socket's.
pub fn exchange(ask: &Ask<'_>) -> std::io::Result<(u16, Vec<u8>)> {
    let mut stream = connect(ask.address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let Ask { method, path, body, .. } = ask;
    let (host, length) = (ask.address.trim_start_matches(':'), body.len());
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let most = ask.limit + 1;
    stream.take(most).read_to_end(&mut answer)?;
    let parsed = if answer.len() as u64 == most { None } else { parse(&answer) };
    parsed.ok_or_else(|| ErrorKind::InvalidData.into())
}

/// A name as one segment of a path.
#[must_use]
pub fn segment(name: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_~".contains(&byte);
    let encode = |byte: u8| match byte {
        byte if is_plain(byte) => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    name.bytes().map(encode).collect()
}

/// Connected to the first of the address's meanings that listens.
fn connect(address: &str) -> std::io::Result<TcpStream> {
    let mut refused = ErrorKind::NotFound.into();
    for found in resolve(address)? {
        match TcpStream::connect_timeout(&found, PATIENCE) {
            Ok(stream) => return Ok(stream),
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

/// What an address may mean; one that stands for all interfaces is this machine.
fn resolve(address: &str) -> std::io::Result<Vec<SocketAddr>> {
    let given = address;
    let address = if given.starts_with(':') { format!("127.0.0.1{given}") } else { given.into() };
    let own = |mut found: SocketAddr| {
        match found.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => found.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => found.set_ip(Ipv6Addr::LOCALHOST.into()),
            IpAddr::V4(_) | IpAddr::V6(_) => {}
        }
        found
    };
    Ok(address.to_socket_addrs()?.map(own).collect())
}

/// Status and body of an answer that is all there.
fn parse(answer: &[u8]) -> Option<(u16, Vec<u8>)> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let body = &answer[end + 4..];
    let mut lines = head.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    // Shorter: the connection broke.
    (length? == body.len()).then(|| (status, body.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_only_if_it_is_whole() {
        let answer = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\nx: y\r\n\r\n{}";
        assert_eq!(parse(answer), Some((503, b"{}".to_vec())));
        assert_eq!(parse(&answer[..answer.len() - 1]), None);
        assert_eq!(parse(b"220 mail.example ESMTP\r\n\r\n"), None);
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\n\r\n"), None);
    }

    #[test]
    fn all_interfaces_are_this_machine() {
        for (given, meant) in [
            (":8080", "127.0.0.1:8080"),
            ("0.0.0.0:81", "127.0.0.1:81"),
            ("[::]:81", "[::1]:81"),
            ("127.0.0.2:1", "127.0.0.2:1"),
        ] {
            let found = resolve(given).expect("an address");
            assert_eq!(found, [meant.parse().expect("an address")]);
        }
    }

    #[test]
    fn a_name_is_one_segment() {
        assert_eq!(segment("orders-1_~"), "orders-1_~");
        assert_eq!(segment("a/b ü%.."), "a%2Fb%20%C3%BC%25%2E%2E");
    }
}
