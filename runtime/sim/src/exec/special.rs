//! Special registers (PTX ISA 10).

use std::sync::atomic::Ordering::Relaxed;

use mcc_ptx::SpecialReg;

use super::alu::lanes64;
use super::state::Core;
use crate::isa::Row64;
use crate::memory::SHARED_START;

impl Core<'_> {
    pub fn special(&self, s: SpecialReg) -> Row64 {
        use SpecialReg::*;
        let (env, cta) = (self.env, &self.ctas[self.w.cta]);
        let ranks: u32 = env.cluster.iter().product();
        let in_cluster = |d: usize| cta.block[d] % env.cluster[d];
        let same = |v: u32| [u64::from(v); 32];
        let by_lane = |f: &dyn Fn(u32) -> u32| lanes64(|l| u64::from(f(l as u32)));
        match s {
            TidX | TidY | TidZ => self.w.tid[s as usize - TidX as usize].map(u64::from),
            NtidX | NtidY | NtidZ => same(env.block[s as usize - NtidX as usize]),
            CtaidX | CtaidY | CtaidZ => same(cta.block[s as usize - CtaidX as usize]),
            NctaidX | NctaidY | NctaidZ => same(env.grid[s as usize - NctaidX as usize]),
            LaneId => by_lane(&|l| l),
            WarpId => same(self.w.index),
            NwarpId => same(env.threads().div_ceil(32)),
            SmId => same((cta.linear % u64::from(env.sms)) as u32),
            NsmId => same(env.sms),
            IsExplicitCluster => same(u32::from(ranks > 1)),
            ClusteridX | ClusteridY | ClusteridZ => {
                let d = s as usize - ClusteridX as usize;
                same(cta.block[d] / env.cluster[d])
            }
            NclusteridX | NclusteridY | NclusteridZ => {
                let d = s as usize - NclusteridX as usize;
                same(env.grid[d] / env.cluster[d])
            }
            ClusterCtaidX | ClusterCtaidY | ClusterCtaidZ => {
                same(in_cluster(s as usize - ClusterCtaidX as usize))
            }
            ClusterNctaidX | ClusterNctaidY | ClusterNctaidZ => {
                same(env.cluster[s as usize - ClusterNctaidX as usize])
            }
            ClusterCtarank => same(self.w.cta as u32),
            ClusterNctarank => same(ranks),
            LanemaskEq => by_lane(&|l| 1 << l),
            LanemaskLe => by_lane(&|l| u32::MAX >> (31 - l)),
            LanemaskLt => by_lane(&|l| (1 << l) - 1),
            LanemaskGe => by_lane(&|l| u32::MAX << l),
            LanemaskGt => by_lane(&|l| (u32::MAX << l) << 1),
            // Time is counted in executed warp instructions, so that runs can
            // be repeated. The blocks of a launch begin together, at the time
            // when the launch before ended; an instruction takes a nanosecond.
            // For a warp that polls in vain time stands still, until it jumps.
            Clock => same(self.stats.instructions as u32),
            ClockHi => same((self.stats.instructions >> 32) as u32),
            Clock64 => [self.stats.instructions; 32],
            GlobalTimerLo => same(self.global_timer() as u32),
            GlobalTimerHi => same((self.global_timer() >> 32) as u32),
            GlobalTimer => [self.global_timer(); 32],
            TotalSmemSize | AggrSmemSize => same(env.shared_bytes() - SHARED_START),
            DynamicSmemSize => same(env.dynamic_smem),
            ReservedSmemOffsetEnd => same(SHARED_START),
            ReservedSmemOffsetCap => same(SHARED_START),
            WarpSz => same(32),
            // Performance counters and identifiers that have no meaning here.
            _ => same(0),
        }
    }

    /// Before a special register is read: a warp that polls sees the time at
    /// which its polls began to be in vain.
    pub fn look_at_clock(&mut self, s: SpecialReg) {
        use SpecialReg::*;
        if matches!(s, GlobalTimer | GlobalTimerLo | GlobalTimerHi) {
            let now = self.now();
            self.w.spin.look_at_clock(self.flight.progress, now);
        }
    }

    fn now(&self) -> u64 {
        let (started, jumped) = (&self.env.started, self.env.jumped);
        started.load(Relaxed) + jumped.load(Relaxed) + self.stats.instructions
    }

    fn global_timer(&self) -> u64 {
        self.w.spin.time().unwrap_or_else(|| self.now())
    }
}
