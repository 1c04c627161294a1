//! Sharing: many connections to one peer, on as few tunnels as have room.

use std::rc::Rc;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::spawn_local,
};
use underpass_identity::testing::now;
use underpass_net::{
    testing::{Mesh, converse, echo, pattern, run, until},
    tunnel::{Ended, Tunnel, TunnelEnd},
};
use underpass_proxy::pool::Pool;

use crate::support::pooled;

#[test]
fn more_streams_than_a_tunnel_takes_open_another() {
    run(async {
        let mesh = Rc::new(Mesh::new());
        let server = mesh.serve_applications().await;
        let (pool, target) = (Rc::<Pool>::default(), echo("127.0.0.1:0").await);
        let mut calls = Vec::new();
        for round in 0..150_u8 {
            let mut call = pooled(&mesh, &pool, server.address, target).await;
            call.app.write_u8(round).await.expect("sent");
            assert_eq!(call.app.read_u8().await.expect("heard"), round);
            calls.push(call);
        }
        assert_eq!(pool.len(), 2);
        let open: usize = server.tunnels.borrow().iter().map(Tunnel::open_streams).sum();
        assert_eq!((open, server.tunnels.borrow().len()), (150, 2));
        // Room that comes free is used again.
        for mut call in calls.drain(..60) {
            assert_eq!(converse(&mut call.app, b"").await.expect("ended"), b"");
        }
        for _ in 0..60 {
            calls.push(pooled(&mesh, &pool, server.address, target).await);
        }
        for call in &mut calls {
            assert_eq!(converse(&mut call.app, b"bye").await.expect("answered"), b"bye");
        }
        assert_eq!((pool.len(), server.tunnels.borrow().len()), (2, 2));
    });
}

#[test]
fn the_next_tunnel_is_there_before_it_is_needed() {
    // With room for four a tunnel has no eighth part that could be left.
    for (cap, begun_at) in [(16, 15), (4, 5)] {
        run(async {
            let mut mesh = Mesh::new();
            mesh.settings.hbone.max_open_streams = cap;
            let mesh = Rc::new(mesh);
            let server = mesh.serve_applications().await;
            let (pool, target) = (Rc::<Pool>::default(), echo("127.0.0.1:0").await);
            let mut calls = Vec::new();
            for n in 1..=cap {
                let mut call = pooled(&mesh, &pool, server.address, target).await;
                call.app.write_u8(7).await.expect("sent");
                assert_eq!(call.app.read_u8().await.expect("heard"), 7);
                calls.push(call);
                assert_eq!(pool.len(), if n < begun_at { 1 } else { 2 }, "at {n} of {cap}");
            }
            if begun_at <= cap {
                let next = || server.tunnels.borrow().get(1).cloned();
                until("the next one is ready", || next().is_some_and(|tunnel| tunnel.peer().is_some())).await;
                assert_eq!(next().expect("there").open_streams(), 0, "not needed yet");
            }
            let mut call = pooled(&mesh, &pool, server.address, target).await;
            assert_eq!(converse(&mut call.app, b"more").await.expect("answered"), b"more");
            assert_eq!(pool.len(), 2, "no third");
        });
    }
}

#[test]
fn a_peer_that_takes_one_stream_gets_one_per_tunnel() {
    run(async {
        let mut mesh = Mesh::new();
        mesh.settings.hbone.max_accepted_streams = 1;
        let mesh = Rc::new(mesh);
        let server = mesh.serve_applications().await;
        let (pool, target) = (Rc::<Pool>::default(), echo("127.0.0.1:0").await);
        // All at once: the first tunnel gets them before it knows. What it refuses is sent again elsewhere, once.
        let mut calls = Vec::new();
        for _ in 0..8 {
            let mut call = pooled(&mesh, &pool, server.address, target).await;
            call.app.write_all(&pattern(50_000)).await.expect("sent early");
            calls.push(call);
        }
        for call in &mut calls {
            let mut answer = vec![0; 50_000];
            call.app.read_exact(&mut answer).await.expect("answered");
            assert!(answer == pattern(50_000), "neither twice nor cut");
        }
        assert_eq!(pool.len(), 8);
        // By now it is known: nothing is refused any more.
        for _ in 0..8 {
            let mut call = pooled(&mesh, &pool, server.address, target).await;
            assert_eq!(converse(&mut call.app, b"more").await.expect("answered"), b"more");
            assert_eq!(call.ended().await, Ended::Finished);
        }
        for call in &mut calls {
            assert_eq!(converse(&mut call.app, b"bye").await.expect("answered"), b"bye");
        }
    });
}

#[test]
fn a_peer_that_takes_no_stream_is_not_asked_again_and_again() {
    run(async {
        let mut mesh = Mesh::new();
        mesh.settings.hbone.max_accepted_streams = 0;
        let mesh = Rc::new(mesh);
        let server = mesh.serve(|_| panic!("nothing is accepted")).await;
        let pool = Rc::<Pool>::default();
        let ended = spawn_local({
            let (mesh, pool) = (Rc::clone(&mesh), Rc::clone(&pool));
            async move { pooled(&mesh, &pool, server.address, "10.0.0.1:80".parse().expect("address")).await.ended.await }
        });
        // The harness cannot open it again, and says so by a panic.
        assert!(ended.await.expect("no panic").is_err());
        assert_eq!((pool.len(), pool.with_room(now())), (1, 0));
    });
}

#[test]
fn a_server_that_leaves_finishes_what_it_began() {
    run(async {
        let mesh = Rc::new(Mesh::new());
        let server = mesh.serve_applications().await;
        let (pool, target) = (Rc::<Pool>::default(), echo("127.0.0.1:0").await);
        let mut old = pooled(&mesh, &pool, server.address, target).await;
        old.app.write_u8(1).await.expect("sent");
        assert_eq!(old.app.read_u8().await.expect("heard"), 1);
        let first = server.tunnel();
        first.drain();
        // On its way while the server says that it goes: nothing of it is lost.
        let mut calls = Vec::new();
        for _ in 0..20 {
            calls.push(pooled(&mesh, &pool, server.address, target).await);
        }
        for call in &mut calls {
            assert_eq!(converse(&mut call.app, b"hello").await.expect("answered"), b"hello");
        }
        until("the client knows", || pool.len() == 2).await;
        assert!(!first.has_ended());
        assert_eq!(converse(&mut old.app, b"bye").await.expect("answered"), b"bye");
        assert_eq!(old.ended().await, Ended::Finished);
        assert_eq!(server.ended().await, TunnelEnd::Closed);
        until("the pool has one", || {
            pool.sweep();
            pool.len() == 1
        })
        .await;
        // The client's turn.
        pool.drain();
        assert_eq!(server.ended().await, TunnelEnd::Closed);
    });
}

/// What is open goes on; the next connection, also one with the same key, has a tunnel of its own.
#[test]
fn a_tunnel_to_an_owner_that_has_gone_takes_no_stream() {
    run(async {
        let mesh = Rc::new(Mesh::new());
        let server = mesh.serve_applications().await;
        let (pool, target) = (Rc::<Pool>::default(), echo("127.0.0.1:0").await);
        let mut old = pooled(&mesh, &pool, server.address, target).await;
        old.app.write_u8(1).await.expect("sent");
        assert_eq!(old.app.read_u8().await.expect("heard"), 1);
        pool.drain_to("127.0.0.9".parse().expect("address"));
        drop(pooled(&mesh, &pool, server.address, target).await);
        assert_eq!(pool.len(), 1, "of another address");
        pool.drain_to(server.address.ip());
        let mut new = pooled(&mesh, &pool, server.address, target).await;
        assert_eq!(converse(&mut new.app, b"hello").await.expect("answered"), b"hello");
        assert_eq!(server.tunnels.borrow().len(), 2);
        assert_eq!(converse(&mut old.app, b"bye").await.expect("answered"), b"bye");
        assert_eq!(old.ended().await, Ended::Finished);
        // The other one is idle.
        pool.drain_to(server.address.ip());
        until("both have ended", || {
            pool.sweep();
            pool.is_empty()
        })
        .await;
    });
}
