//! End to end: a real gateway, real origins, real clients.
//!
//! | module | claims about |
//! |---|---|
//! | `origins` | each kind of origin: bytes cold and hot, names, listings, fields that pass through |
//! | `odd_origins` | origins without validators, with weak tags, without ranges, that compress; wrong credentials; a dead origin |
//! | `http` | methods, targets, connections, h2c, malformed requests |
//! | `ranges` | Range: one, several, none, unsatisfiable |
//! | `conditions` | the five conditional fields and their precedence |
//! | `s3` | the S3 dialect by boto3, the AWS command line and by hand |
//! | `freshness` | overwrites, deletes, `immutable`, `stale_for` |
//! | `control` | everything under `/-/` and the command line's client side |
//! | `directories` | files that change in place, pipes, links that turn and that go round |
//! | `standing_still` | clients that say nothing or take nothing, over HTTP/1.1 and HTTP/2 |
//! | `under_way` | what is reloaded or purged while it is being asked for |
//! | `loops` | origins that are the gateway itself |
//! | `settings` | the settings file, arguments, `check`, help, secrets |
//! | `lifecycle` | start, reload, stop, what two processes share, the demo |
//! | `limits` | `[limits]`: who may connect, how long they may be silent, who is answered all the same |
//! | `when` | memory that is too small, a clock that is wrong |
//! | `nvme` | the disk tier: kills, purges, damage, disks that fill or fail |
//! | `deploy` | what runs it elsewhere: service manager, units, compose file |
//! | `scenario` | the load generator's shaped networks: that they work, and that they go |
//! | `harness` | the harness itself: that the odd origins are as odd as they should be |

// The processes under test live by the real clock, so these tests do too.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod conditions;
mod control;
mod deploy;
mod directories;
mod freshness;
mod harness;
mod http;
mod lifecycle;
mod limits;
mod loops;
mod nvme;
mod odd_origins;
mod origins;
mod ranges;
mod s3;
mod scenario;
mod settings;
mod stage;
mod standing_still;
mod under_way;
mod when;
