-- Compares with pydicom what DICOM files of a folder give: medxai-run tests/reference/dicom_compare.lua CASES.lua,
-- after python tests/reference/dicom.py FOLDER > CASES.lua. Tells each file that differs, and those that are refused,
-- with why.
local image, files = require("medxai.core").image, require "medxai.base.files"
local same, differ, refused = 0, 0, 0
for _, case in ipairs(dofile(arg[1])) do
  local ok, x = pcall(image.dicom, files.read(case.name))
  local name = case.name:match "[^/]+$"
  if not ok then
    refused = refused + 1
    print(("refused %s%s: %s"):format(name, case.refused and " (by pydicom, too)" or "", x))
  elseif case.refused then
    print("read    " .. name .. ", which pydicom does not read")
  elseif image.sha256_stream():update((x:size(2) == 1 and x:select(2, 0) or x):contiguous()):hex() == case.sha256 then
    same = same + 1
  else
    differ = differ + 1
    print("DIFFERS " .. name)
  end
end
print(("%d the same, %d differ, %d refused"):format(same, differ, refused))
