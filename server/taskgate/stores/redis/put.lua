-- Writes tasks. KEYS: one a task. ARGV: two a task, its update time and its document.
-- Returns how many were added, replaced, unchanged (the same is stored) and older (a later one is stored, and stays).
-- All is read before anything is written: where reading fails, as on a key of another type, all stays as it was.

-- Whether decimal number a is above b. As text, because Lua's own numbers are exact to 2^53 only.
local function above(a, b)
    local a_negative, b_negative = string.sub(a, 1, 1) == '-', string.sub(b, 1, 1) == '-'
    if a_negative ~= b_negative then
        return b_negative
    end
    if #a ~= #b then
        return (#a > #b) ~= a_negative
    end
    return a ~= b and (a > b) ~= a_negative
end

local times, documents, changed = {}, {}, {}
local added, replaced, unchanged, older = 0, 0, 0, 0
for i, key in ipairs(KEYS) do
    local time, document = ARGV[2 * i - 1], ARGV[2 * i]
    if times[key] == nil then
        local stored = redis.call('HMGET', key, 'update_time', 'document')
        times[key], documents[key] = stored[1] or '0', stored[2]
    end
    local keep = false
    if not documents[key] then
        added = added + 1
    elseif above(times[key], time) then
        older = older + 1
        keep = true
    elseif times[key] == time and documents[key] == document then
        unchanged = unchanged + 1
        keep = true
    else
        replaced = replaced + 1
    end
    if not keep then
        times[key], documents[key], changed[key] = time, document, true
    end
end
for key in pairs(changed) do
    redis.call('HSET', key, 'update_time', times[key], 'document', documents[key])
end
return {added, replaced, unchanged, older}
