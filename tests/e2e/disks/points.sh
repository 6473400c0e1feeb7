# The guest of test_points: the exactness proof (docs/replication.md) on this kernel.
ip link set lo up
mount -t devpts devpts /dev/pts 2>/dev/null || { mkdir -p /dev/pts; mount -t devpts devpts /dev/pts; }
cd /repo
echo "way $(cat /proc/cmdline)"
[ ! -e /repo/anew ] || anew=anew
read -r words </proc/cmdline
for word in $words; do case $word in slipway.points=*) SLIPWAY_POINTS=${word#*=}; export SLIPWAY_POINTS;; esac; done
SLIPWAY_PATIENCE_S=1200 PYTHONDONTWRITEBYTECODE=1 python3 tests/e2e/exactness/test_exactness build build/src/main/slipway-agent ${anew:-exact}
