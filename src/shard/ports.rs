//! The native ports of a node: one that all shards share, one for each shard.
//!
//! Shards bind the shared port with SO_REUSEPORT, which would also let two nodes of one user share
//! it unnoticed. So each port is first connected to, which succeeds if anyone listens there.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::sockopt::set_socket_reuseport;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with};

/// Time for a connection to this machine; one that takes longer is no listener of it.
const PROBE: Duration = Duration::from_millis(500);

/// Addresses to bind. The shared port is held, without listening, until this is dropped.
#[derive(Debug)]
pub(super) struct Ports {
    /// The port all shards share.
    pub(super) shared: SocketAddr,
    /// One for each shard; port 0 is any free one.
    pub(super) own: Vec<SocketAddr>,
    _held: OwnedFd,
}

impl Ports {
    /// Finds out that nobody listens on the ports: `shared`, and the one behind it per shard. With
    /// port 0 all of them are any free ones. An error names the address it is about.
    pub(super) fn reserve(
        shared: SocketAddr,
        shards: u16,
    ) -> Result<Self, (SocketAddr, io::Error)> {
        let mut own = Vec::new();
        for shard in 0..shards {
            let mut address = shared;
            if shared.port() != 0 {
                let port = u32::from(shared.port()) + 1 + u32::from(shard);
                let too_high = || io::Error::other("the ports behind it exceed 65535");
                address.set_port(u16::try_from(port).map_err(|_| (shared, too_high()))?);
                nobody_listens(address)?;
            }
            own.push(address);
        }
        if shared.port() != 0 {
            nobody_listens(shared)?;
        }
        let (held, shared) = hold(shared).map_err(|error| (shared, error))?;
        Ok(Self { shared, own, _held: held })
    }
}

/// Asks by connecting, not by binding: connections of a process that was killed linger for a minute
/// and refuse a plain bind, but nobody listens there.
fn nobody_listens(address: SocketAddr) -> Result<(), (SocketAddr, io::Error)> {
    let mut probe = address;
    if probe.ip().is_unspecified() {
        probe.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    match TcpStream::connect_timeout(&probe, PROBE) {
        Ok(_) => Err((address, io::ErrorKind::AddrInUse.into())),
        Err(_) => Ok(()),
    }
}

/// Binds without listening, and with SO_REUSEPORT: only the shards can bind it too.
fn hold(address: SocketAddr) -> io::Result<(OwnedFd, SocketAddr)> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_reuseport(&socket, true)?;
    bind(&socket, &address)?;
    let bound = SocketAddr::try_from(getsockname(&socket)?)?;
    Ok((socket, bound))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_port_in_use_is_named() {
        let any: SocketAddr = "127.0.0.1:0".parse().expect("valid");
        let listener = TcpListener::bind(any).expect("a free port");
        let used = listener.local_addr().expect("bound");
        assert_eq!(Ports::reserve(used, 1).expect_err("in use").0, used);

        let mut before = used;
        before.set_port(used.port() - 1);
        assert_eq!(Ports::reserve(before, 1).expect_err("in use").0, used);
    }

    #[test]
    fn any_port_is_a_real_one() {
        let any: SocketAddr = "127.0.0.1:0".parse().expect("valid");
        let ports = Ports::reserve(any, 2).expect("free ports");
        assert_ne!(ports.shared.port(), 0);
        assert_eq!(ports.own, [any, any]);
    }

    #[test]
    fn ports_end_at_65535() {
        let last = "127.0.0.1:65535".parse().expect("valid");
        assert!(Ports::reserve(last, 1).is_err());
    }
}
