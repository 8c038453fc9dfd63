//! Special registers (PTX ISA 10).

use std::fmt;

use crate::kinds::{Type, spelled};

spelled! {
    /// A read-only register that the machine predefines. `name()` has no `%`.
    SpecialReg {
        TidX = "tid.x", TidY = "tid.y", TidZ = "tid.z",
        NtidX = "ntid.x", NtidY = "ntid.y", NtidZ = "ntid.z",
        CtaidX = "ctaid.x", CtaidY = "ctaid.y", CtaidZ = "ctaid.z",
        NctaidX = "nctaid.x", NctaidY = "nctaid.y", NctaidZ = "nctaid.z",
        LaneId = "laneid", WarpId = "warpid", NwarpId = "nwarpid",
        SmId = "smid", NsmId = "nsmid", GridId = "gridid",
        IsExplicitCluster = "is_explicit_cluster",
        ClusteridX = "clusterid.x", ClusteridY = "clusterid.y", ClusteridZ = "clusterid.z",
        NclusteridX = "nclusterid.x", NclusteridY = "nclusterid.y", NclusteridZ = "nclusterid.z",
        ClusterCtaidX = "cluster_ctaid.x", ClusterCtaidY = "cluster_ctaid.y",
        ClusterCtaidZ = "cluster_ctaid.z",
        ClusterNctaidX = "cluster_nctaid.x", ClusterNctaidY = "cluster_nctaid.y",
        ClusterNctaidZ = "cluster_nctaid.z",
        ClusterCtarank = "cluster_ctarank", ClusterNctarank = "cluster_nctarank",
        LanemaskEq = "lanemask_eq", LanemaskLe = "lanemask_le", LanemaskLt = "lanemask_lt",
        LanemaskGe = "lanemask_ge", LanemaskGt = "lanemask_gt",
        Clock = "clock", ClockHi = "clock_hi", Clock64 = "clock64",
        Pm0 = "pm0", Pm1 = "pm1", Pm2 = "pm2", Pm3 = "pm3",
        Pm4 = "pm4", Pm5 = "pm5", Pm6 = "pm6", Pm7 = "pm7",
        GlobalTimer = "globaltimer", GlobalTimerLo = "globaltimer_lo",
        GlobalTimerHi = "globaltimer_hi",
        TotalSmemSize = "total_smem_size", AggrSmemSize = "aggr_smem_size",
        DynamicSmemSize = "dynamic_smem_size", CurrentGraphExec = "current_graph_exec",
        ReservedSmemOffsetBegin = "reserved_smem_offset_begin",
        ReservedSmemOffsetEnd = "reserved_smem_offset_end",
        ReservedSmemOffsetCap = "reserved_smem_offset_cap",
        WarpSz = "WARP_SZ",
    }
}

impl SpecialReg {
    /// The type of the register, PTX ISA 10.
    pub const fn ty(self) -> Type {
        use SpecialReg::*;
        match self {
            GridId | Clock64 | GlobalTimer | CurrentGraphExec => Type::U64,
            IsExplicitCluster => Type::Pred,
            _ => Type::U32,
        }
    }

    /// Reads a name with its `%`, or the constant `WARP_SZ`, which has none.
    pub fn parse(text: &str) -> Option<SpecialReg> {
        match text.strip_prefix('%') {
            Some(name) => SpecialReg::from_name(name).filter(|s| *s != SpecialReg::WarpSz),
            None => (text == "WARP_SZ").then_some(SpecialReg::WarpSz),
        }
    }
}

/// The register as PTX writes it.
pub struct SpecialText(pub SpecialReg);

impl fmt::Display for SpecialText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = if self.0 == SpecialReg::WarpSz {
            ""
        } else {
            "%"
        };
        write!(f, "{percent}{}", self.0.name())
    }
}
