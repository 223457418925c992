//! PostgreSQL with `fsync` and `synchronous_commit` on: the table of jobs that people start with.
//! An id is its primary key, so duplicates are found as in ChronosDB; due times have an index.
//! Taking is a transaction: rows locked and read, deleted, committed. There are no groups and no
//! history.

use std::time::{Duration, Instant};

use chronosdb::base::time::wall_ms;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls, Statement};

use super::{Peer, id, payload};

const TABLE: &str = "CREATE TABLE IF NOT EXISTS jobs \
     (id text PRIMARY KEY, due bigint NOT NULL, payload bytea NOT NULL); \
     CREATE INDEX IF NOT EXISTS jobs_due ON jobs (due)";
const INSERT: &str = "INSERT INTO jobs SELECT * FROM unnest($1::text[], $2::bigint[], $3::bytea[]) \
     ON CONFLICT DO NOTHING";
const INSERT_ONE: &str = "INSERT INTO jobs VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
const LOCK: &str = "SELECT id, payload FROM jobs WHERE due <= $1 ORDER BY due LIMIT 1000 \
     FOR UPDATE SKIP LOCKED";
const DELETE: &str = "DELETE FROM jobs WHERE id = ANY($1)";

/// For a server that has just been started.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection.
pub struct Postgres {
    client: Client,
    insert: Statement,
    insert_one: Statement,
    lock: Statement,
    delete: Statement,
    payload: Vec<u8>,
}

fn text(error: &tokio_postgres::Error) -> String {
    let told = error.as_db_error().map(ToString::to_string);
    told.unwrap_or_else(|| error.to_string())
}

impl Postgres {
    async fn open(config: &str) -> Result<Self, tokio_postgres::Error> {
        let (client, connection) = tokio_postgres::connect(config, NoTls).await?;
        // It ends with the client.
        tokio::spawn(connection);
        Ok(Self {
            insert: client.prepare(INSERT).await?,
            insert_one: client.prepare(INSERT_ONE).await?,
            lock: client.prepare(LOCK).await?,
            delete: client.prepare(DELETE).await?,
            client,
            payload: payload(),
        })
    }

    async fn insert(&mut self, first: u64, count: u16) -> Result<(), tokio_postgres::Error> {
        let due = i64::try_from(wall_ms()).unwrap_or(i64::MAX);
        if count == 1 {
            let id = id(first);
            let values: [&(dyn ToSql + Sync); 3] = [&id, &due, &self.payload];
            return self.client.execute(&self.insert_one, &values).await.map(drop);
        }
        let ids: Vec<String> = (first..first + u64::from(count)).map(id).collect();
        let payloads = vec![self.payload.as_slice(); ids.len()];
        let dues = vec![due; ids.len()];
        self.client.execute(&self.insert, &[&ids, &dues, &payloads]).await.map(drop)
    }

    async fn lock_and_delete(&mut self) -> Result<u64, tokio_postgres::Error> {
        let now = i64::try_from(wall_ms()).unwrap_or(i64::MAX);
        let transaction = self.client.transaction().await?;
        let rows = transaction.query(&self.lock, &[&now]).await?;
        let ids: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
        let deleted = transaction.execute(&self.delete, &[&ids]).await?;
        transaction.commit().await?;
        Ok(deleted)
    }
}

/// It listens a while before it lets anybody in.
async fn connect_patiently(config: &str) -> Result<Client, tokio_postgres::Error> {
    let began = Instant::now();
    loop {
        match tokio_postgres::connect(config, NoTls).await {
            Ok((client, connection)) => {
                tokio::spawn(connection);
                return Ok(client);
            }
            Err(error)
                if error.code() == Some(&SqlState::CANNOT_CONNECT_NOW)
                    && began.elapsed() < PATIENCE =>
            {
                tokio::time::sleep(PATIENCE / 100).await;
            }
            Err(error) => return Err(error),
        }
    }
}

impl Peer for Postgres {
    async fn connect(addr: &str, count: usize) -> Result<Vec<Self>, String> {
        let (host, port) = addr.rsplit_once(':').ok_or("--addr is host:port")?;
        let config = format!("host={host} port={port} user=bench dbname=postgres");
        let client = connect_patiently(&config).await.map_err(|error| text(&error))?;
        client.batch_execute(TABLE).await.map_err(|error| text(&error))?;
        let mut peers = Vec::new();
        for _ in 0..count {
            peers.push(Self::open(&config).await.map_err(|error| text(&error))?);
        }
        Ok(peers)
    }

    async fn publish(&mut self, first: u64, count: u16) -> Result<(), String> {
        self.insert(first, count).await.map_err(|error| text(&error))
    }

    async fn take(&mut self) -> Result<u64, String> {
        self.lock_and_delete().await.map_err(|error| text(&error))
    }
}
