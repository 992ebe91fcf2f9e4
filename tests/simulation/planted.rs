//! Records that are in the inbox before the run begins, as an earlier version left them: without the attributes that came
//! later, and with a reason that this version does not know.

use redrive::inbox::{Record, Status};
use redrive::key::{Key, RecordKey};
use redrive::queue::Queue as _;

use crate::plan::PlantedKind;
use crate::scene::Scene;

pub(crate) fn plant(scene: &Scene) {
    let now_ms = scene.clock.epoch_ms();
    for planted in &scene.plan.planted {
        let key = Key::new(format!("k{}", planted.key));
        let mut record = Record::new(RecordKey::new(&scene.queue.attributes().name, &key));
        record.claim_id = "of-an-earlier-version".to_owned();
        record.message_id = "an-earlier-message".to_owned();
        record.fencing_token = now_ms - 5_000;
        record.lease_until = now_ms - 1_000;
        record.expires_at = now_ms / 1000 + 30 * 86_400;
        match planted.kind {
            PlantedKind::Released => {
                record.attempts = 1;
                record.last_error = Some("it failed long ago".to_owned());
            }
            PlantedKind::Abandoned(lease) => {
                record.status = Status::Processing;
                record.lease_until = now_ms + u64::try_from(lease.as_millis()).unwrap_or(0);
            }
            PlantedKind::Forgotten => {
                record.status = Status::Completed;
                record.expires_at = now_ms / 1000 - 10;
            }
            PlantedKind::Rejected => {
                record.status = Status::Rejected;
                record.attempts = 1;
                record.reason = Some("a_reason_of_its_own".to_owned());
            }
        }
        scene.inbox.insert(record);
        scene
            .judge()
            .note("world", format!("k{} has a record: {:?}", planted.key, planted.kind));
    }
}
