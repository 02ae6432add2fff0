//! Reaching a VM's address: straight, or through the node.

use std::{net::IpAddr, time::Duration};

use fleet_core::{
    Kind, Result,
    deadline::Deadline,
    ssh::{Stream, connect_tcp, pump_stdio},
};

use crate::{node::Node, relay, settings::Route};

/// How long a straight connection may take before the way through the node is taken.
const STRAIGHT: Duration = Duration::from_secs(1);

/// Opens a connection to a VM's address by `route`. `node` connects to the node, when it is needed.
pub fn open(
    route: Route,
    node: &mut dyn FnMut() -> Result<std::rc::Rc<Node>>,
    (address, port): (IpAddr, u16),
    deadline: Deadline,
) -> Result<Box<dyn Stream>> {
    let straight = |limit: Deadline| {
        connect_tcp(&address.to_string(), port, limit)
            .map_err(|e| e.context(format_args!("can not connect to {address} port {port}")))
    };
    match route {
        Route::Direct => straight(deadline),
        Route::Node => through(&*node()?, address, port, deadline),
        Route::Auto => straight(deadline.at_most(STRAIGHT)).or_else(|first| {
            through(&*node()?, address, port, deadline)
                .map_err(|e| e.now(format!("tried straight first: {}", first.chain())))
        }),
    }
}

fn through(node: &Node, address: IpAddr, port: u16, deadline: Deadline) -> Result<Box<dyn Stream>> {
    relay::connect(&*node.api.transport(), &address.to_string(), port, deadline).map_err(|e| {
        e.context(format_args!("can not connect to {address} port {port} through the node"))
            .with_kind(Kind::Unreachable)
    })
}

/// Carries bytes between standard input and output and a stream, until the stream ends or nobody reads any more.
pub fn carry(mut stream: Box<dyn Stream>) -> Result<()> {
    // A guest that reboots drops its connections; what it said has been handed on.
    pump_stdio(&mut *stream).map(drop).map_err(|e| e.context("the connection to the VM was lost"))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{ErrorKind, Read, Write},
        net::TcpListener,
    };

    use fleet_core::Error;

    use super::*;

    fn never() -> Result<std::rc::Rc<Node>> {
        Err(Error::failed("the node was asked"))
    }

    #[test]
    fn a_straight_way_is_taken_where_there_is_one() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut stream =
            open(Route::Auto, &mut never, ([127, 0, 0, 1].into(), port), Deadline::secs(5)).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        peer.write_all(b"SSH-2.0-x\r\n").unwrap();
        let mut buffer = [0; 64];
        assert_eq!(stream.read(&mut buffer).unwrap(), 11);
        stream.set_deadline(Deadline::after(Duration::from_millis(5)));
        assert_eq!(stream.read(&mut buffer).unwrap_err().kind(), ErrorKind::TimedOut);
    }

    #[test]
    fn the_node_is_asked_only_where_the_route_says_so() {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let to = ([127, 0, 0, 1].into(), port);
        let straight = open(Route::Direct, &mut never, to, Deadline::secs(5)).map(drop).unwrap_err();
        assert_eq!(straight.kind(), Kind::Unreachable);
        let auto = open(Route::Auto, &mut never, to, Deadline::secs(5)).map(drop).unwrap_err();
        assert_eq!(auto.message(), "the node was asked");
    }
}
