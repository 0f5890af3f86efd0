-- A project named :project in its first round, with :count tasks of one vote each, as the service itself would have made them.
with p as (
  insert into project (id, name, state, settings, started_at) values (gen_random_uuid(), ':project', 'labeling', '{}', now()) returning id
), c as (
  insert into class (project, index, name) select id, place - 1, name from p, unnest(array['bag', 'coat', 'shirt']) with ordinality as n (name, place)
), i as (
  insert into import (id, project, source, format, split, labels, state) select gen_random_uuid(), id, 'seed', 'auto', 'pool', 'hide', 'done' from p
  returning id, project
)
insert into segment (id, project, import, number, item_count, size, channels) select gen_random_uuid(), project, id, 0, :count, 28, 1 from i;

insert into item (id, project, segment, segment_row, pack_offset, pack_length, media_type, name, split, width, height, channels, content_hash)
select gen_random_uuid(), p.id, s.id, place, place * 100, 100, 'image/png', 'pool/' || place, 'pool', 28, 28, 1,
  sha256((':project ' || place)::bytea)
from project p join segment s on s.project = p.id, generate_series(0, :count - 1) as place where p.name = ':project';

insert into round (id, project, number, state, strategy, task_count)
select gen_random_uuid(), id, 1, 'labeling', '{"kind":"random"}', :count from project where name = ':project';

insert into task (id, project, round_number, item, rank, strategy, source, suggestions)
select gen_random_uuid(), p.id, 1, i.id, i.segment_row, 'random', 'query',
  '[{"class":1,"probability":0.75},{"class":0,"probability":0.2},{"class":2,"probability":0.05}]'
from project p join item i on i.project = p.id where p.name = ':project';

insert into slot (id, task, project, round_number, priority)
select gen_random_uuid(), t.id, t.project, 1, (1::bigint << 40) | (t.rank::bigint << 8)
from project p join task t on t.project = p.id where p.name = ':project';

analyze;
