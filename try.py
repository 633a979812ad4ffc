import sys, time, os
from pathlib import Path
sys.path.insert(0,"tests/training")
import tempfile, torch
import torch.distributed as dist
from conversations import *
from homegrown.finetuning.job import FinetuneJob
from homegrown.finetuning.finetune import check
from homegrown.training.loop import Trainer
from homegrown.training.report import Report
from homegrown.training.stopping import Stop
from homegrown.training.workers import Worker
from homegrown.training.results import finish
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", LOCAL_WORLD_SIZE="1")
t=Path(tempfile.mkdtemp())
base=write_base(t/"base"); packed=pack_conversations(t/"data", base)
for m in sys.argv[1:]:
    a=time.time(); out=t/m; out.mkdir()
    check(base,tuning(m))
    job=FinetuneJob(packed=packed,tokenizer=base,base=base,training=training(),finetuning=tuning(m),seed=1,device="cpu")
    w=Worker("cpu"); w.writers=dist.group.WORLD; torch.set_num_threads(1)
    tr=Trainer(job,out,w); r=Report(out/"p.jsonl"); tr.start(r); tr.run(r,Stop()); finish(tr,out,0)
    print(m, time.time()-a, [(x.loss, x.validation_loss) for x in tr.state.metrics if x.validation_loss], tr.state.samples[-3:])
    print(open(out/"summary.json").read())
    print(sorted(str(p.relative_to(t/m))+f" {p.stat().st_size}" for p in (t/m).rglob("*") if p.is_file() and "tensorb" not in str(p)))
