"""Trains rain and snow. The shipped weights name this file; what it does stands in recipes/train_weather.py."""

from mounted_pack import mount_pack

if __name__ == "__main__":
    mount_pack()
    from pack.recipes.train_weather import main

    main()
