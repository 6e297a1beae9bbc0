-- The readers of published data sets, each on a small made-up tree with the tables' real names and columns.
local t = require "t"
local files = require "medxai.base.files"
local png = require "png"
local xai = require "medxai"

local function picture(path, side, k)
  files.mkdir(path:match "^(.*)/")
  files.write(path, png.bytes(side, side, 0, 8, function(x, y) return (x * 7 + y * 13 + k * 29) % 250 end))
end

local function tree(texts)
  local root = t.tmpdir()
  for name, text in pairs(texts) do
    files.mkdir((root .. "/" .. name):match "^(.*)/")
    t.write(root .. "/" .. name, text)
  end
  return root
end

local function lines(list) return table.concat(list, "\n") .. "\n" end

local small = { size_px = 16, resize_px = 16 }
local function with(root, more)
  local o = { root = root }
  for k, v in pairs(small) do o[k] = v end
  for k, v in pairs(more or {}) do o[k] = v end
  return o
end

-- path -> split
local function splits_of(data)
  local of = {}
  for _, split in ipairs(data.splits) do
    for _, item in ipairs(split.items) do of[item.path] = split.name end
  end
  return of
end

-- Raises where a patient is in two splits; how many patients there are.
local function patients_of(data)
  local of, n = {}, 0
  for _, split in ipairs(data.splits) do
    for _, item in ipairs(split.items) do
      if not of[item.patient] then n = n + 1 end
      t.equal(of[item.patient] or split.name, split.name)
      of[item.patient] = split.name
    end
  end
  return n
end

local function positives(data, split)
  local out = {}
  for i, item in ipairs(data[split].items) do out[i] = table.concat(item.findings, " ") end
  return out
end

-- The note about images that tables name and that are not there.
local function absent_note(data)
  for _, note in ipairs(data.notes) do
    if note:find "are not there" then return note end
  end
end

-- ---- NIH -----------------------------------------------------------------------------------------------------------
local function nih(n)
  local rows = { "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    .. "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]," }
  local train, test, root = {}, {}, tree {}
  for i = 1, n do
    local patient = (i + 1) // 2
    local name = ("%08d_%03d.png"):format(patient, i)
    picture(("%s/images_%03d/images/%s"):format(root, 1 + i % 2, name), 32, i)
    rows[#rows + 1] = ("%s,%s,0,%d,58,M,%s,2682,2749,0.143,0.143,"):format(name,
      i % 3 == 0 and "No Finding" or i % 3 == 1 and "Effusion|Infiltration" or "Cardiomegaly", patient,
      i % 2 == 0 and "PA" or "AP")
    local list = patient <= n // 2 - 2 and train or test
    list[#list + 1] = name
  end
  t.write(root .. "/Data_Entry_2017.csv", lines(rows))
  t.write(root .. "/train_val_list.txt", table.concat(train, "\n"))
  t.write(root .. "/test_list.txt", table.concat(test, "\n"))
  t.write(root .. "/BBox_List_2017.csv", lines { "Image Index,Finding Label,Bbox [x,y,w,h],,,",
    test[1] .. ",Infiltrate,256,512,512,256,,,", test[1] .. ",Effusion,0,0,128.0,128.5,,,",
    test[2] .. ",Cardiomegaly,0,0,1024,1024,,," })
  return root, test
end

t.test("NIH ChestX-ray14: the authors' lists, validation by patient, views, boxes as masks of their finding", function()
  local scope <close> = xai.scope()
  local root, test = nih(24)
  local data = xai.dataset.nih_chestxray14(with(root, { val = 0.4 }))
  t.equal({ data.test.n, data.train.n + data.val.n, #data.classes, patients_of(data) }, { 4, 20, 14, 12 })
  t.ok(data.val.n > 0)
  t.equal(data.test:item(1).name, test[1])
  t.equal({ data.test:item(1).view, data.test:item(2).view }, { "AP", "PA" })
  local few = xai.dataset.nih_chestxray14(with(root, { findings = { "Effusion", "Cardiomegaly" }, views = { "PA" } }))
  t.equal(positives(few, "test"), { "1 0", "0 0" })
  -- boxes of 1024 px on 32 px, seen at 16 px: 256..768 x 512..768 is 4..11 x 8..11
  local mask = data.test:mask(1, "Infiltration")
  t.equal({ mask:sum():item(), mask:narrow(0, 8, 4):narrow(1, 4, 8):sum():item() }, { 32, 32 })
  t.equal(data.test:mask(1, "lesion"):sum():item(), 32 + 4)
  t.equal(data.test:mask(2, "Cardiomegaly"):sum():item(), 256)
  t.equal({ data.test:mask(3, "lesion"), data.test:mask(2, "Effusion") }, {})
  t.ok(data.test:mask_sha256(1, "Effusion") ~= data.test:mask_sha256(1, "lesion"))
  t.equal({ data.test:cropped_share(1, "Infiltration") }, { 0.0, 16 * 8 })
  t.fails_like(function() xai.dataset.nih_chestxray14(with(root, { findings = { "Efusion" } })) end,
    "unknown finding 'Efusion'. Did you mean 'Effusion'?")
  t.equal(absent_note(data), nil)
  os.execute("rm " .. t.quote(root) .. "/images_*/images/" .. test[1])
  t.equal(absent_note(xai.dataset.nih_chestxray14(with(root))),
    "1 of the tables' 24 images are not there, and are left out; the first is '" .. test[1] .. "'")
  files.remove(root .. "/test_list.txt")
  t.fails_like(function() xai.dataset.nih_chestxray14(with(root)) end, "no list 'test_list.txt' in")
end)

-- ---- CheXpert ------------------------------------------------------------------------------------------------------
local observations = "No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,Consolidation,"
  .. "Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"

t.test("CheXpert: tables by their names, uncertain labels, views, and which split valid.csv is", function()
  local function row(split, patient, view, ap, labels)
    return ("CheXpert-v1.0-small/%s/patient%05d/study1/view1_%s.jpg,Female,68,%s,%s,%s"):format(split, patient,
      view:lower(), view, ap, labels)
  end
  local header, train = "Path,Sex,Age,Frontal/Lateral,AP/PA," .. observations, {}
  for i = 1, 20 do
    train[i] = row("train", (i + 1) // 2, i % 2 == 0 and "Lateral" or "Frontal", i % 2 == 0 and "" or "AP",
      i == 1 and "0.0,,1.0,,,-1.0,,,,,,,," or ",,,,,,,,,,,,,1.0")
  end
  local root = tree { ["train.csv"] = lines { header, table.unpack(train) },
    ["valid.csv"] = lines { header, row("valid", 64541, "Frontal", "PA", "0.0,0,1,0,0,0,0,0,0,0,0,0,0,0") } }
  local data = xai.dataset.chexpert(with(root, { findings = { "Cardiomegaly", "Edema", "Support Devices" },
    uncertain = "ones", missing = "zeros", val = 0.3 }))
  t.equal({ data.train.n + data.val.n, data.test.n, patients_of(data) }, { 20, 1, 11 })
  local first = data.train.items[1].patient == "patient00001" and data.train.items[1] or data.val.items[1]
  t.equal({ first.path, first.view, first.findings[1] }, { "train/patient00001/study1/view1_frontal.jpg", "AP", 1 })
  t.equal(data.test.items[1].findings, { 1, 0, 0 })
  t.equal(xai.dataset.chexpert(with(root, { views = { "LATERAL" }, val = 0 })).train.n, 10)
  -- with a table of the test images valid.csv validates
  t.write(root .. "/test_labels.csv", lines { "Path," .. observations,
    "test/patient64741/study1/view1_frontal.jpg,0,0,1,0,0,0,0,0,0,0,0,0,0,0" })
  data = xai.dataset.chexpert(with(root))
  t.equal({ data.train.n, data.val.n, data.test.n }, { 20, 1, 1 })
  t.write(root .. "/valid.csv", "Path,Sex\n")
  t.fails_like(function() xai.dataset.chexpert(with(root)) end,
    "chexpert: valid.csv has no column 'No Finding' %(its header: path, sex%)")
end)

-- ---- MIMIC ---------------------------------------------------------------------------------------------------------
t.test("MIMIC-CXR-JPG: the authors' splits, labels of the study, paths by subject", function()
  local root = tree {
    ["mimic-cxr-2.0.0-split.csv"] = lines { "dicom_id,study_id,subject_id,split", "aa,50414267,10000032,train",
      "bb,50414267,10000032,train", "cc,53189527,10000764,validate", "dd,57375967,10000898,test",
      "ee,59999999,10000898,test" },
    ["mimic-cxr-2.0.0-metadata.csv"] = lines { "dicom_id,subject_id,study_id,ViewPosition,Rows",
      "aa,10000032,50414267,PA,3056", "bb,10000032,50414267,LATERAL,3056", "cc,10000764,53189527,AP,1",
      "dd,10000898,57375967,,1" },
    ["mimic-cxr-2.0.0-chexpert.csv"] = lines { "subject_id,study_id," .. observations,
      "10000032,50414267,1.0,,,,,,,,,,,,,", "10000764,53189527,,,1.0,,,,,,,,,,-1.0,",
      "10000898,57375967,,,0.0,,,,,,,,,,," } }
  local data = xai.dataset.mimic_cxr_jpg(with(root, { findings = { "Cardiomegaly" }, missing = "zeros" }))
  t.equal(splits_of(data), { ["files/p10/p10000032/s50414267/aa.jpg"] = "train",
    ["files/p10/p10000032/s50414267/bb.jpg"] = "train", ["files/p10/p10000764/s53189527/cc.jpg"] = "val",
    ["files/p10/p10000898/s57375967/dd.jpg"] = "test" })
  t.equal({ data.train.items[2].view, data.val.items[1].findings, data.test.items[1].view }, { "LATERAL", { 1 } })
  files.remove(root .. "/mimic-cxr-2.0.0-chexpert.csv")
  t.write(root .. "/mimic-cxr-2.0.0-chexpert.csv.gz", "x")
  t.fails_like(function() xai.dataset.mimic_cxr_jpg(with(root)) end, "is compressed. Unpack it: gunzip")
end)

-- ---- PadChest ------------------------------------------------------------------------------------------------------
t.test("PadChest: lists of labels, physicians' alone, patients drawn", function()
  local rows, root = { ",ImageID,ImageDir,StudyDate_DICOM,PatientID,Projection,MethodLabel,Labels" }, tree {}
  for i = 1, 24 do
    local name = ("%d.png"):format(i)
    if i ~= 24 then picture(("%s/%d/%s"):format(root, i % 3, name), 16, i) end
    rows[#rows + 1] = ('%d,%s,%d,20140915,%d,%s,%s,"%s"'):format(i, name, i % 3, (i + 1) // 2,
      i % 2 == 0 and "L" or "PA", i % 4 == 0 and "RNN_model" or "Physician",
      i == 23 and "" or i % 2 == 0 and "['normal']"
      or "['pleural effusion', ' cardiomegaly']")
  end
  t.write(root .. "/PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv", lines(rows))
  local asked = { "pleural effusion", "cardiomegaly" }
  local data = xai.dataset.padchest(with(root, { findings = asked, split = { train = 0.5, val = 0, test = 0.5 } }))
  t.equal({ data.train.n + data.test.n, patients_of(data) }, { 22, 11 })
  t.equal(absent_note(data), "1 of the tables' 23 images are not there, and are left out; the first is '24.png'")
  local item = data.train.items[1]
  t.equal(item.findings, item.view == "PA" and { 1, 1 } or { 0, 0 })
  local physicians = xai.dataset.padchest(with(root, { findings = asked, labels_by = "Physician" }))
  local n = 0
  for _, split in ipairs(physicians.splits) do n = n + split.n end
  t.equal(n, 17)
  t.fails_like(function() xai.dataset.padchest(with(root, { findings = { "efusion" } })) end,
    "padchest: no image has the finding 'efusion'. Known here: cardiomegaly, normal, pleural effusion.")
end)

-- ---- COVID-19 Radiography Database ---------------------------------------------------------------------------------
t.test("COVID-19 Radiography Database: masks of 256 px on images of 299 px", function()
  local scope <close> = xai.scope()
  local root = tree {}
  for _, class in ipairs { "COVID", "Lung_Opacity", "Normal", "Viral Pneumonia" } do
    for i = 1, 6 do
      picture(("%s/%s/images/%s-%d.png"):format(root, class, class, i), 37, i)
      files.mkdir(("%s/%s/masks"):format(root, class))
      files.write(("%s/%s/masks/%s-%d.png"):format(root, class, class, i), png.bytes(32, 32, 0, 8, function(x, y)
        return x > 3 and x < 12 and y > 4 and y < 28 and 255 or x > 18 and x < 28 and y > 4 and y < 28 and 255 or 0
      end))
    end
  end
  local data = xai.dataset.covid19_radiography(with(root, { input = "lungs_raw", split = { train = 0.8, val = 0,
    test = 0.2 } }))
  t.equal(data.train.n + data.test.n, 24)
  t.equal(data.classes, { "COVID", "Lung_Opacity", "Normal", "Viral Pneumonia" })
  t.equal({ data.mask_resize, data:preparation().mask_resize }, { "nearest", "nearest" })
  local mask, x = data.train:mask(1, "lungs"), data.train:pixels(1)
  t.ok(mask:sum():item() > 60 and x:select(2, 0):mul(mask:eq(0):to { dtype = "uint8" }):sum():item() < x:sum():item())
end)

-- ---- RSNA and VinDr: DICOM -----------------------------------------------------------------------------------------
local tiny = require "tinydicom"
local function need_dicom()
  local _, why = require("medxai.dicom").header(t.root .. "/tests/reference/dicom/plain8.dcm")
  if why and why:find "no DCMTK" then t.skip "this build has no DCMTK" end
end

local function dicom(path, i)
  files.mkdir(path:match "^(.*)/")
  files.write(path, tiny.bytes { w = 32, h = 32, bits = 8, id = "x" .. i, uid = "1.2.3." .. i,
    view = i % 2 == 0 and "AP" or "PA", samples = function(k) return (k * 7 + i * 31) % 256 end })
end

t.test("RSNA Pneumonia: DICOM files, three classes, several boxes per image", function()
  need_dicom()
  local scope <close> = xai.scope()
  local labels, classes, root = { "patientId,x,y,width,height,Target" }, { "patientId,class" }, tree {}
  for i = 1, 18 do
    local id = ("0004cfab-%02d"):format(i)
    dicom(("%s/stage_2_train_images/%s.dcm"):format(root, id), i)
    local class = ({ "Normal", "No Lung Opacity / Not Normal", "Lung Opacity" })[1 + i % 3]
    for k = 1, class == "Lung Opacity" and 2 or 1 do
      labels[#labels + 1] = class == "Lung Opacity" and ("%s,%d.0,256.0,256.0,512.0,1"):format(id, k * 256)
        or id .. ",,,,,0"
      classes[#classes + 1] = id .. "," .. class
    end
  end
  t.write(root .. "/stage_2_train_labels.csv", lines(labels))
  t.write(root .. "/stage_2_detailed_class_info.csv", lines(classes))
  local data = xai.dataset.rsna_pneumonia(with(root, { split = { train = 1, val = 0, test = 0 } }))
  t.equal({ data.train.n, data.train:label(1), data.train:label(2), data.train:item(2).view },
    { 18, 1, 2, "AP" })
  local mask = data.train:mask(2, "lesion") -- 256..768 x 256..768 of 1024
  t.equal({ mask:sum():item(), mask:narrow(0, 4, 8):narrow(1, 4, 8):sum():item() }, { 64, 64 })
  t.equal(data.train:mask(1, "lesion"), nil)
  t.ok(data.train:batch({ 1, 2 }).x:size(0) == 2)
  files.remove(root .. "/stage_2_train_images/0004cfab-02.dcm")
  t.equal(absent_note(xai.dataset.rsna_pneumonia(with(root))),
    "1 of the tables' 18 images are not there, and are left out; the first is '0004cfab-02'")
end)

t.test("VinDr-CXR: what two of three radiologists say, the authors' splits, boxes in the file's pixels", function()
  need_dicom()
  local scope <close> = xai.scope()
  local names = "Aortic enlargement,Atelectasis,Calcification,Cardiomegaly,Clavicle fracture,Consolidation,Edema,"
    .. "Emphysema,Enlarged PA,ILD,Infiltration,Lung Opacity,Lung cavity,Lung cyst,Mediastinal shift,Nodule/Mass,"
    .. "Pleural effusion,Pleural thickening,Pneumothorax,Pulmonary fibrosis,Rib fracture,Other lesion,COPD,Lung tumor,"
    .. "Pneumonia,Tuberculosis,Other diseases,No finding"
  local function row(aortic, rest) return aortic .. (",0"):rep(26) .. "," .. rest end
  local train, test, root = { "image_id,rad_id," .. names }, { "image_id," .. names:gsub("diseases", "disease") },
    tree {}
  for i = 1, 12 do
    dicom(("%s/train/%02d.dicom"):format(root, i), i)
    for rad = 1, 3 do train[#train + 1] = ("%02d,R%d,%s"):format(i, rad, row(rad <= i % 4 and 1 or 0, 1)) end
  end
  dicom(root .. "/test/t1.dicom", 20)
  test[2] = "t1," .. row(1, 0)
  files.mkdir(root .. "/annotations")
  t.write(root .. "/annotations/image_labels_train.csv", lines(train))
  t.write(root .. "/annotations/image_labels_test.csv", lines(test))
  t.write(root .. "/annotations/annotations_train.csv", "image_id,rad_id,class_name,x_min,y_min,x_max,y_max\n01,R1,No "
    .. "finding,,,,\n")
  t.write(root .. "/annotations/annotations_test.csv", "image_id,class_name,x_min,y_min,x_max,y_max\n"
    .. "t1,Aortic enlargement,8,16,24,32\n")
  local asked = { "Aortic enlargement", "Other disease" }
  local data = xai.dataset.vindr_cxr(with(root, { findings = asked, val = 0 }))
  t.equal(positives(data, "train"), { "0 0", "1 0", "1 0", "0 0", "0 0", "1 0", "1 0", "0 0", "0 0", "1 0", "1 0",
    "0 0" })
  t.equal(positives(data, "test"), { "1 0" })
  t.equal(positives(xai.dataset.vindr_cxr(with(root, { findings = asked, val = 0, agree = 3 })), "train")[2], "0 0")
  t.equal(data.test:mask(1, "Aortic enlargement"):narrow(0, 8, 8):narrow(1, 4, 8):sum():item(), 64)
  t.equal(data.test:mask(1, "lesion"):sum():item(), 64)
  files.remove(root .. "/train/03.dicom")
  t.equal(absent_note(xai.dataset.vindr_cxr(with(root, { findings = asked }))),
    "1 of the tables' 13 images are not there, and are left out; the first is '03'")
end)
