-- The folders of COVID-QU-Ex as it is published: what its readers look for and maskmaker writes.
return {
  classes = { "COVID-19", "Non-COVID", "Normal" },
  parts = { "lung", "infection" },
  part = { lung = "Lung Segmentation Data", infection = "Infection Segmentation Data" },
  split = { train = "Train", val = "Val", test = "Test", small_test = "Small_Test" },
}
