-- Writes tasks if what is stored under their keys is what the caller takes it to be, else tells what is.
-- KEYS: one a task. ARGV: four a task. Its update time and its document; the update time that is stored ('' where no
-- task is), and the SHA-1 of the document that is stored ('' where it does not matter).
-- Returns nothing if all was written. If nothing was: three a task, the update time that is stored ('' where no task is),
-- '1' where the document that is stored is the task's, and its length.
-- All is read before anything is written: where reading fails, as on a key of another type, all stays as it was.

local found, as_expected = {}, true
for i, key in ipairs(KEYS) do
    local time, document, expected_time, expected_sum = unpack(ARGV, 4 * i - 3, 4 * i)
    local stored = redis.call('HMGET', key, 'update_time', 'document')
    local stored_time = stored[2] and (stored[1] or '0') or ''
    found[3 * i - 2] = stored_time
    found[3 * i - 1] = stored_time == time and stored[2] == document and '1' or ''
    found[3 * i] = stored[2] and #stored[2] or 0
    if stored_time ~= expected_time or (expected_sum ~= '' and redis.sha1hex(stored[2]) ~= expected_sum) then
        as_expected = false
    end
end
if not as_expected then
    return found
end
for i, key in ipairs(KEYS) do
    redis.call('HSET', key, 'update_time', ARGV[4 * i - 3], 'document', ARGV[4 * i - 2])
end
return false
