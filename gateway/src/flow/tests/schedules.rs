//! What a watch does about what it sees.

use super::*;
use crate::flow::schedule::{compare, known};
use crate::settings::{Begins, ScheduleSettings, Watched};

/// A watch of all of a dataset, and its house.
fn watch(name: &str, tries: &[Try]) -> (House, Schedule) {
    let settings = ScheduleSettings {
        name: "w".into(),
        flow: Some(step("a", "")),
        begins: Begins::OnChange {
            dataset: "models".into(),
            what: Watched::Prefix(String::new()),
            every: Duration::from_secs(30),
        },
    };
    let schedule = Schedule::new(&settings).unwrap();
    (house(name, &[("a", tries)]), schedule)
}

/// What is seen, by whoever knew then what is known now.
async fn sees(house: &House, schedule: &Schedule, seen: &str) {
    let what = ("models", &Watched::Prefix(String::new()));
    let known = known(&house.flows, schedule).await.unwrap();
    compare(&house.flows, schedule, what, known, seen.into()).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_doubted_again_while_the_run_before_goes_on() {
    let (house, schedule) = watch("doubts", &[Try::Hangs]);
    for seen in ["1", "2", "3", "3", "3"] {
        sees(&house, &schedule, seen).await;
    }
    assert_eq!(house.flows.all().len(), 1);
    assert_eq!(*house.hands.doubted.lock().unwrap(), ["models/"]);
}

#[tokio::test(start_paused = true)]
async fn a_look_that_took_long_begins_nothing_for_what_was_before() {
    let (house, schedule) = watch("slow", &[]);
    sees(&house, &schedule, "1").await;
    let before = known(&house.flows, &schedule).await.unwrap();
    sees(&house, &schedule, "2").await;
    let flow = house.flows.get("w-1").unwrap();
    let mut changes = flow.changes();
    let _ = changes.wait_for(|_| flow.state().is_over()).await;
    let what = ("models", &Watched::Prefix(String::new()));
    compare(&house.flows, &schedule, what, before, "1".into()).await;
    sees(&house, &schedule, "2").await;
    assert_eq!(house.flows.all().len(), 1);
}
