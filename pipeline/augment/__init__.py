"""What changes training pictures: albumentations one by one, Mixup and CutMix by the batch."""
