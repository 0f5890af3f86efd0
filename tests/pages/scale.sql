-- Makes a project large for tests/pages/scale.mjs: `psql -v project=NAME -v items=1000000 -v tasks=10000 -f scale.sql`. The project must hold
-- imported images and not be started. New items show the images that are there; as tensors they would be wrong, so nothing trains on them.

\set ON_ERROR_STOP on
begin;

create temporary table seen on commit drop as
  select i.*, row_number() over (order by i.id) - 1 as place
  from item i join project p on p.id = i.project where p.name = :'project' and p.deleted_at is null and i.split = 'pool';

insert into item (id, project, segment, segment_row, pack_offset, pack_length, media_type, name, split, width, height, channels, content_hash)
  select gen_random_uuid(), s.project, s.segment, 1000000 + n, s.pack_offset, s.pack_length, s.media_type,
    'scale/' || lpad(n::text, 7, '0') || '.png', 'pool', s.width, s.height, s.channels, sha256(('scale ' || n)::bytea)
  from generate_series(1, :items - (select count(*) from seen)) as n
    join seen s on s.place = n % (select count(*) from seen);

insert into round (id, project, number, state, strategy, task_count)
  select gen_random_uuid(), id, 1, 'labeling', '{"kind": "typical"}', :tasks from project where name = :'project' and deleted_at is null;

insert into task (id, project, round_number, item, rank, score, uncertainty, pretext_loss, strategy, source)
  select gen_random_uuid(), i.project, 1, i.id, row_number() over (order by i.id) - 1, random() * 2, random(), random(), 'typical', 'query'
  from (select i.id, i.project from item i join project p on p.id = i.project
        where p.name = :'project' and p.deleted_at is null and i.split = 'pool' order by i.id limit :tasks) as i;

insert into slot (id, task, project, round_number, priority)
  select gen_random_uuid(), t.id, t.project, 1, (1::bigint << 40) + t.rank
  from task t join project p on p.id = t.project where p.name = :'project' and p.deleted_at is null;

update project set state = 'labeling', started_at = now() where name = :'project' and deleted_at is null;
commit;
analyze item, task, slot;
