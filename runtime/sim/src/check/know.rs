//! What the threads of a warp know, and how knowledge moves.
//!
//! Lanes that know the same are one [`Part`]; most warps have one. A lane that
//! alone waits for something parts from the others, until the warp
//! synchronises. Every release (a barrier, an arrive, a fence) ends a *tick* of
//! its warp: what the releasing lanes did up to then is what the release tells
//! of.

use smallvec::SmallVec;

use super::clock::{Clock, Edge, Far, View, join_far};
use super::shadow::Stamp;
use crate::isa::Scope;

/// What some lanes know.
#[derive(Debug, Clone, Default)]
pub struct Know {
    pub edge: Edge,
    /// What the last fence of these lanes would release with a later relaxed
    /// write, and its scope. It stays theirs alone when the warp meets.
    pub fence: SmallVec<[(u32, (Scope, Edge)); 1]>,
    /// What relaxed reads of these lanes have seen: their later fence acquires
    /// it.
    pub seen: SmallVec<[(u32, Edge); 1]>,
}

impl Know {
    fn note_seen(&mut self, lanes: u32, edge: &Edge) {
        match self.seen.iter_mut().find(|(l, _)| *l == lanes) {
            Some((_, seen)) => seen.join(edge),
            None => self.seen.push((lanes, edge.clone())),
        }
    }
}

#[derive(Debug, Clone)]
pub struct Part {
    pub lanes: u32,
    pub know: Know,
}

/// The knowledge of one warp.
#[derive(Debug, Clone, Default)]
pub struct WarpKnow {
    pub parts: SmallVec<[Part; 1]>,
    /// Counts releases, from 1 on.
    pub tick: u32,
    /// Slot of lane 0's accesses.
    pub slot: u32,
    /// Slot of its strong writes.
    pub strong: u32,
}

impl WarpKnow {
    /// Begins with what earlier launches leave to know.
    pub fn reset(&mut self, slot: u32, strong: u32, before: &Edge) {
        self.parts.clear();
        let know = Know {
            edge: before.clone(),
            ..Know::default()
        };
        self.parts.push(Part {
            lanes: u32::MAX,
            know,
        });
        self.tick = 1;
        self.slot = slot;
        self.strong = strong;
    }

    /// Both slots of its accesses.
    pub fn slots(&self) -> [u32; 2] {
        [self.slot, self.strong]
    }

    /// A fence tells, with a strong write behind it, of that write as well.
    pub fn fenced_write(&mut self, lane: u32) -> Option<(Scope, Edge)> {
        let (scope, mut edge) = self.fenced(lane)?.clone();
        edge.view.happened.raise(self.strong, 1 << lane, self.tick);
        self.tick += 1;
        Some((scope, edge))
    }

    /// Makes parts of which each lies inside or outside of `lanes`.
    fn split(&mut self, lanes: u32) {
        for i in 0..self.parts.len() {
            let part = self.parts[i].lanes;
            if part & lanes != 0 && part & !lanes != 0 {
                let mut rest = self.parts[i].clone();
                rest.lanes = part & !lanes;
                self.parts[i].lanes = part & lanes;
                self.parts.push(rest);
            }
        }
    }

    fn inside(&mut self, lanes: u32) -> impl Iterator<Item = &mut Part> {
        self.split(lanes);
        self.parts.iter_mut().filter(move |p| p.lanes & lanes != 0)
    }

    /// What `lanes` tell at a release. Ends the tick.
    pub fn release(&mut self, lanes: u32) -> Edge {
        let mut edge: Option<Edge> = None;
        for p in self.parts.iter().filter(|p| p.lanes & lanes != 0) {
            match &mut edge {
                None => edge = Some(p.know.edge.clone()),
                Some(e) => e.join(&p.know.edge),
            }
        }
        let mut edge = edge.unwrap_or_default();
        for slot in [self.slot, self.strong] {
            edge.view.happened.raise(slot, lanes, self.tick);
        }
        self.tick += 1;
        edge
    }

    pub fn acquire(&mut self, lanes: u32, edge: &Edge) {
        for p in self.inside(lanes) {
            p.know.edge.join(edge);
        }
    }

    /// `lanes` learn that an engine's slot has reached a count.
    pub fn learn(&mut self, lanes: u32, slot: u32, of: u32, count: u32) {
        for p in self.inside(lanes) {
            p.know.edge.view.happened.raise(slot, of, count);
        }
    }

    /// Each of `lanes` learns that its own slot of an engine's row has reached
    /// a count.
    pub fn learn_own(&mut self, lanes: u32, slot: u32, count: u32) {
        // A part's lanes share their knowledge, each of the others' copies too:
        // more than is so until the warp meets, where lanes part is as it was.
        for p in self.inside(lanes) {
            p.know.edge.view.happened.raise(slot, p.lanes, count);
        }
    }

    /// The lanes wait for each other: all know what each knew.
    pub fn meet(&mut self, lanes: u32) {
        let edge = self.release(lanes);
        self.settle(lanes, &edge);
    }

    /// As `acquire`, by lanes that all know the same from now on.
    pub fn settle(&mut self, lanes: u32, edge: &Edge) {
        self.acquire(lanes, edge);
        let mut inside = self.parts.iter().filter(|p| p.lanes & lanes != 0);
        let Some(first) = inside.next() else { return };
        let (mut know, own) = (first.know.clone(), first.lanes);
        let mut inside = inside.peekable();
        if inside.peek().is_some() {
            know.fence.iter_mut().for_each(|(l, _)| *l &= own);
            know.seen.iter_mut().for_each(|(l, _)| *l &= own);
            know.fence.retain(|(l, _)| *l != 0);
            know.seen.retain(|(l, _)| *l != 0);
        }
        for p in inside {
            know.edge.join(&p.know.edge);
            for (l, fence) in p.know.fence.iter().filter(|(l, _)| l & p.lanes != 0) {
                know.fence.push((l & p.lanes, fence.clone()));
            }
            for (l, seen) in p.know.seen.iter().filter(|(l, _)| l & p.lanes != 0) {
                know.note_seen(l & p.lanes, seen);
            }
        }
        self.parts.retain(|p| p.lanes & lanes == 0);
        self.parts.push(Part { lanes, know });
    }

    /// `fence.proxy.async`: what the lanes know and did may be read by the
    /// asynchronous proxy, in shared or in global memory or in both.
    pub fn proxy_fence(&mut self, lanes: u32, spaces: [bool; 2]) {
        let (slot, strong, tick) = (self.slot, self.strong, self.tick);
        for p in self.inside(lanes) {
            let View { happened, fenced } = &mut p.know.edge.view;
            for (clock, _) in fenced.iter_mut().zip(spaces).filter(|(_, s)| *s) {
                clock.join(happened);
                clock.raise(slot, p.lanes, tick);
                clock.raise(strong, p.lanes, tick);
            }
        }
        self.tick += 1;
    }

    /// `fence.acq_rel` or `fence.sc` of a scope.
    pub fn fence(&mut self, lanes: u32, scope: Scope) {
        let mut acquired: SmallVec<[(u32, Edge); 1]> = SmallVec::new();
        for p in self.inside(lanes) {
            for (l, edge) in std::mem::take(&mut p.know.seen) {
                if l & p.lanes != 0 {
                    acquired.push((l & p.lanes, edge));
                }
            }
        }
        for (l, edge) in &acquired {
            self.acquire(*l, edge);
        }
        let (slot, strong, tick) = (self.slot, self.strong, self.tick);
        for p in self.inside(lanes) {
            let mut edge = p.know.edge.clone();
            edge.view.happened.raise(slot, p.lanes, tick);
            edge.view.happened.raise(strong, p.lanes, tick);
            p.know.fence.clear();
            p.know.fence.push((p.lanes, (scope, edge)));
        }
        self.tick += 1;
    }

    /// What a fence before it lets a relaxed write of `lane` release.
    fn fenced(&self, lane: u32) -> Option<&(Scope, Edge)> {
        let fences = &self.part(lane)?.know.fence;
        let own = fences.iter().find(|(l, _)| l >> lane & 1 != 0);
        own.map(|(_, fence)| fence)
    }

    /// A relaxed read saw what a release wrote.
    pub fn saw(&mut self, lanes: u32, edge: &Edge) {
        for p in self.inside(lanes) {
            p.know.note_seen(p.lanes, edge);
        }
    }

    pub fn part(&self, lane: u32) -> Option<&Part> {
        self.parts.iter().find(|p| p.lanes >> lane & 1 != 0)
    }
}

/// Who makes an access: what it knows, and which accesses are its own.
pub struct Reader<'a> {
    cluster: u64,
    /// All of these must know: the warps of a warpgroup, or one part of a warp.
    knows: SmallVec<[&'a Know; 4]>,
    /// Slots of the warp's own accesses.
    own: Option<[u32; 2]>,
    /// The lane, when an engine works for one.
    pub lane: Option<u32>,
}

impl<'a> Reader<'a> {
    pub fn one(cluster: u64, know: &'a Know, own: Option<[u32; 2]>) -> Reader<'a> {
        Reader {
            cluster,
            knows: SmallVec::from_slice(&[know]),
            own,
            lane: None,
        }
    }

    /// An engine that works for one lane: what the lane itself did before is
    /// over for it, what its warp did is not.
    pub fn engine(cluster: u64, know: &'a Know, own: [u32; 2], lane: u32) -> Reader<'a> {
        Reader {
            cluster,
            knows: SmallVec::from_slice(&[know]),
            own: Some(own),
            lane: Some(lane),
        }
    }

    pub fn all(cluster: u64, knows: impl Iterator<Item = &'a Know>) -> Reader<'a> {
        Reader {
            cluster,
            knows: knows.collect(),
            own: None,
            lane: None,
        }
    }

    /// Whether a slot is that of the warp itself.
    pub fn owns(&self, slot: u32) -> bool {
        self.own.is_some_and(|o| o.contains(&slot))
    }

    /// Whether a stamp's `lanes` are known to be past it, in the clock that
    /// `of` takes.
    pub fn knows(&self, stamp: &Stamp, lanes: u32, of: impl Fn(&View) -> &Clock) -> bool {
        self.knows.iter().all(|k| {
            let view = if stamp.cluster == self.cluster {
                Some(&k.edge.view)
            } else {
                let far: Option<&Far> = k.edge.far.as_deref();
                far.and_then(|f| f.get(&stamp.cluster)).map(|v| &**v)
            };
            let known =
                lanes == 0 || view.is_some_and(|v| of(v).covers(stamp.slot, lanes, stamp.count));
            known
                || k.edge
                    .ended
                    .as_ref()
                    .is_some_and(|e| e.covers(stamp.cluster, stamp.put))
        })
    }
}

/// An edge as another cluster sees it: all of it lies far.
pub fn abroad(edge: &Edge, cluster: u64) -> Edge {
    let mut far = None;
    join_far(&mut far, edge.far.as_ref());
    let own = std::sync::Arc::new(edge.view.clone());
    let told = std::sync::Arc::new(Far::from([(cluster, own)]));
    join_far(&mut far, Some(&told));
    Edge {
        view: View::default(),
        far,
        ended: edge.ended.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_that_learns_alone_parts_until_the_warp_meets() {
        let (mut a, mut b) = (WarpKnow::default(), WarpKnow::default());
        a.reset(0, 1000, &Edge::default());
        b.reset(32, 1032, &Edge::default());
        let edge = a.release(1);
        b.acquire(1 << 5, &edge);
        let knows = |w: &WarpKnow, lane: u32, slot, of, count| {
            let part = w.part(lane).expect("every lane has a part");
            part.know.edge.view.happened.covers(slot, of, count)
        };
        assert!(knows(&b, 5, 0, 1, 1) && !knows(&b, 4, 0, 1, 1));
        assert!(!knows(&b, 5, 0, 2, 1), "lane 1 released nothing");
        b.meet(u32::MAX);
        assert!(b.parts.len() == 1 && knows(&b, 4, 0, 1, 1));
        assert!(knows(&b, 0, 32, u32::MAX, 1));
    }

    #[test]
    fn what_one_lane_saw_is_acquired_by_its_own_fence_after_a_meeting() {
        let (mut a, mut b) = (WarpKnow::default(), WarpKnow::default());
        a.reset(0, 1000, &Edge::default());
        b.reset(32, 1032, &Edge::default());
        a.fence(1, Scope::Gpu);
        a.meet(u32::MAX);
        assert!(a.fenced(0).is_some() && a.fenced(1).is_none());
        let edge = a.fenced(0).expect("fenced").1.clone();
        b.saw(1 << 3, &edge);
        b.meet(u32::MAX);
        let knows = |w: &WarpKnow, lane: u32| {
            let part = w.part(lane).expect("every lane has a part");
            part.know.edge.view.happened.covers(0, 1, 1)
        };
        let mut other = b.clone();
        other.fence(1 << 4, Scope::Gpu);
        assert!(!knows(&other, 3) && !knows(&other, 4));
        b.fence(u32::MAX, Scope::Gpu);
        assert!(knows(&b, 3) && !knows(&b, 4));
    }

    #[test]
    fn what_comes_after_a_release_is_not_told() {
        let mut a = WarpKnow::default();
        a.reset(0, 1000, &Edge::default());
        let edge = a.release(1);
        assert_eq!(a.tick, 2);
        assert!(edge.view.happened.covers(0, 1, 1) && !edge.view.happened.covers(0, 1, 2));
        assert!(!edge.view.fenced[0].covers(0, 1, 1));
        a.proxy_fence(u32::MAX, [true, false]);
        let fenced = a.release(1).view.fenced;
        assert!(fenced[0].covers(0, u32::MAX, 2) && !fenced[1].covers(0, 1, 2));
    }

    #[test]
    fn other_clusters_are_known_by_name() {
        let mut a = WarpKnow::default();
        a.reset(0, 1000, &Edge::default());
        let edge = abroad(&a.release(2), 7);
        assert!(edge.view == View::default());
        let far = edge.far.as_deref().expect("told");
        assert!(far[&7].happened.covers(0, 2, 1));
    }
}
